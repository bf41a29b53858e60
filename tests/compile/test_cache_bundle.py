"""torch's compile cache in an artifact, for replicas that compile just in time; real compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compile.cache_bundle import BUNDLE, load_bundle
from compile.manifest import ArtifactError
from tests.deployments import tiny_models

ROOT = Path(__file__).resolve().parents[2]

REPLICA = """
import json, sys
from torch._dynamo.utils import counters
from deployments.options import ReplicaOptions
from deployments.replica import PoolReplica
replica = PoolReplica(ReplicaOptions.model_validate_json(sys.argv[1]))
counts = counters["inductor"]
print(json.dumps({"graphs": replica.graphs, "hits": counts["fxgraph_cache_hit"],
                  "misses": counts["fxgraph_cache_miss"]}))
replica.service.stop()
"""


def run(cache: Path, *arguments: str) -> str:
    """Python with an empty compile cache of its own."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_replica_compiles_with_the_cache_of_the_artifact(tmp_path: Path) -> None:
    model = tiny_models.build("sd1", tmp_path / "model")
    numbers = ["--height", "16", "--width", "16", "--batch", "2", "--cache-bundle"]
    command = ["-m", "compile", "--model", str(model), "--accelerator", "cpu", *numbers]
    run(tmp_path / "one", *command, "--publish", str(tmp_path / "registry"))
    options = {
        "pool": "cpu",
        "accelerator": "cpu",
        "framework": "cpu",
        "model_source": str(model),
        "threads": 1,
        "artifact": {"source": str(tmp_path / "registry"), "load": "cache"},
    }
    out = run(tmp_path / "two", "-c", REPLICA, json.dumps(options))
    told = json.loads(out.strip().splitlines()[-1])
    assert told["graphs"].startswith("compiled just in time: with the compile cache of cpu-16x16-")
    # Text encoder, UNet, decoder: none is lowered a second time.
    assert (told["hits"], told["misses"]) == (3, 0)


def test_a_bundle_that_is_absent_or_not_torchs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{BUNDLE}: the artifact has none; .*--cache-bundle"):
        load_bundle(tmp_path)
    (tmp_path / BUNDLE).write_bytes(b"something else")
    with pytest.raises(ArtifactError, match=f"{BUNDLE}: torch .* does not take it"):
        load_bundle(tmp_path)
