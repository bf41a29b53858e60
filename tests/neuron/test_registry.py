"""From the command line to a picture: compile, publish, resolve, serve on cores Ray assigns."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from deployments.messages import ImageFailure, ImageResult
from deployments.options import ArtifactOptions, ReplicaOptions
from deployments.replica import PoolReplica
from tests.deployments.harness import ask
from tests.e2e.conftest import (
    Service,
    assert_same_picture,
    free_port,
    serving,
    shipped_config,
    wait_for,
)
from tests.neuron.conftest import ROWS

ROOT = Path(__file__).resolve().parents[2]
TORCH = torch.__version__.partition("+")[0]


@dataclasses.dataclass(frozen=True)
class Published:
    """A tiny SD model and the registry that holds its graphs."""

    model: Path
    registry: Path

    def options(self) -> ReplicaOptions:
        """Of a replica that runs them."""
        return ReplicaOptions(
            pool="inf2",
            accelerator="inf2",
            framework="neuron",
            model_source=str(self.model),
            artifact=ArtifactOptions(source=str(self.registry)),
        )


@pytest.fixture(scope="module")
def published(
    model_folder: Callable[[Any], Path], tmp_path_factory: pytest.TempPathFactory
) -> Published:
    """By the command that the documentation gives."""
    model, registry = model_folder("sd1"), tmp_path_factory.mktemp("registry")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "compile", "--model", str(model), "--accelerator", "neuron"),
            *("--height", "16", "--width", "16", "--batch", str(ROWS)),
            *("--option", "auto_cast=none", "--publish", str(registry)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return Published(model, registry)


def test_a_replica_paints_the_compiled_size_and_refuses_others(
    published: Published, cores: Callable[[str], None]
) -> None:
    cores("0,1")
    replica = PoolReplica(published.options())
    try:
        told = asyncio.run(replica.describe())
        assert told["sizes"] == [[16, 16]]
        assert told["device"] == "neuron:0,1"
        assert (told["max_rows"], list(told["step_cost_ms"])) == (2 * ROWS, [2 * ROWS])
        request = ask(scheduler="euler", num_inference_steps=2)
        answers = asyncio.run(paint(replica, [request, dataclasses.replace(request, width=32)]))
    finally:
        replica.service.stop()
    good, bad = answers
    assert isinstance(good, ImageResult), good
    assert np.asarray(Image.open(io.BytesIO(good.image))).shape == (16, 16, 3)
    assert isinstance(bad, ImageFailure)
    assert (bad.code, bad.param, bad.retryable) == ("invalid_request", "width", True)
    assert bad.message == "width, height: got 32 x 16; this pool was compiled for 16 x 16"


async def paint(replica: PoolReplica, asked: list[Any]) -> list[ImageResult | ImageFailure]:
    return await asyncio.gather(*(replica.generate(request) for request in asked))


@pytest.mark.parametrize(
    ("package", "here", "told"),
    [
        ("torch-neuronx", "2.9.0.2.11.1", "torch-neuronx: made with 2.8.0.2.10.16998, here 2.9"),
        ("neuronx-cc", "2.20.9.0", "neuronx-cc: made with 2.21.33363.0 or later, here 2.20.9.0"),
        ("neuronx-cc", "2.22.0.0", None),
        ("torch", "2.9.0", f"torch: made with {TORCH}, here 2.9.0"),
        ("diffusers", "0.36.0", None),
    ],
)
def test_an_artifact_of_other_versions_is_refused_by_name(
    package: str,
    here: str,
    told: str | None,
    published: Published,
    cores: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from compile.exporters import neuron
    from deployments.graphs import choose_graphs
    from deployments.model_info import load_model_info

    installed = neuron._installed
    monkeypatch.setattr(
        neuron, "_installed", lambda name: here if name == package else installed(name)
    )
    info = load_model_info(str(published.model), None)
    if told is None:
        assert choose_graphs(published.options(), info) is not None
        return
    with pytest.raises(RuntimeError, match=told):
        choose_graphs(published.options(), info)


def config(published: Published, port: int) -> dict[str, Any]:
    """The shipped pools with the tiny model, the neuron pool with its graphs."""
    made = shipped_config(port)
    arguments = made["applications"][0]["args"]
    arguments["model"] = {"source": str(published.model)}
    arguments["limits"] = {"min_width": 8, "min_height": 8, "request_timeout_s": 120}
    pools = arguments["pools"]
    pools["cpu"]["engine"] = {"threads": 1}
    pools["neuron"]["artifact"] = {"source": str(published.registry)}
    return made


def test_a_served_pool_has_its_cores_and_only_its_sizes(
    published: Published, tmp_path: Path
) -> None:
    port = free_port()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config(published, port)), encoding="utf-8")
    with serving(path, port) as service:
        service.cluster.add_node(num_cpus=1, resources={"neuron_cores": 4})
        wait_for("two replicas", lambda: service.pool("neuron")["ready_replicas"] == 2)
        check_served(service)


def check_served(service: Service) -> None:
    # Of four cores each replica has two of its own; one replica speaks for the pool.
    measured = service.pool("neuron")["measured"]
    assert measured["sizes"] == [[16, 16]]
    assert measured["device"] in ("neuron:0,1", "neuron:2,3")
    wanted = {"num_inference_steps": 3, "seed": 5}
    ours = service.post(**wanted)
    assert (ours.status_code, ours.headers["x-pool"]) == (200, "neuron")
    assert_same_picture(ours.content, service.post(**wanted, pool="cpu").content)
    # Another size: elsewhere if there is an elsewhere, else the caller's mistake.
    other = service.post(**wanted, width=32, height=32)
    assert other.status_code == 200, other.text
    assert other.headers["x-pool"] == "cpu"
    pinned = service.post(**wanted, width=32, height=32, pool="neuron")
    assert pinned.status_code == 400
    error = pinned.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "width")
    assert "got 32 x 32" in error["message"]
    assert "neuron: 16 x 16" in error["message"]
    assert service.post(**wanted).headers["x-pool"] == "neuron"
