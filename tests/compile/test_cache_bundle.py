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

MODEL = """
import json, sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from compile.cache_bundle import load_bundle, save
from compile.exporters.base import ExportRequest
from deployments.backends.packaged import JustInTime
from deployments.backends.pipeline import PipelineBackend
from deployments.model import load_pipeline
what, model, folder = sys.argv[1:]
torch.set_num_threads(1)
request = ExportRequest("cpu", 16, 16, (2,))
"""
SAVE = f"{MODEL}\nsave(Path(model), Path(folder), request)"
START = f"""{MODEL}
backend = PipelineBackend(load_pipeline(model, None), device=torch.device("cpu"),
    dtype=torch.float32, fixed_rows=None, decode_batch=1, overlap_decode=False)
JustInTime(request, "with a cache", Path(folder)).attach(backend)
counts = counters["inductor"]
print(json.dumps([counts["fxgraph_cache_hit"], counts["fxgraph_cache_miss"]]))
"""


def run(code: str, cache: Path, *arguments: str) -> str:
    """Python with an empty compile cache of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, "run", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_replica_compiles_with_the_cache_of_the_artifact(tmp_path: Path) -> None:
    model = str(tiny_models.build("sd1", tmp_path / "model"))
    run(SAVE, tmp_path / "one", model, str(tmp_path))
    out = run(START, tmp_path / "two", model, str(tmp_path))
    hits, misses = json.loads(out.strip().splitlines()[-1])
    # Text encoder, UNet, decoder: none is lowered a second time.
    assert (hits, misses) == (3, 0)


def test_a_bundle_that_is_absent_or_not_torchs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{BUNDLE}: the artifact has none; .*--cache-bundle"):
        load_bundle(tmp_path)
    (tmp_path / BUNDLE).write_bytes(b"something else")
    with pytest.raises(ArtifactError, match=f"{BUNDLE}: torch .* does not take it"):
        load_bundle(tmp_path)
