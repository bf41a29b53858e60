"""A pool that runs a published artifact, on a real cluster."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import yaml

from compile.registry import RegistryError, open_registry
from tests import artifacts
from tests.e2e.conftest import Service, assert_same_picture, free_port, serving, shipped_config

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The shipped configuration, its CPU pool with the embedded model's artifact."""
    # The fast tests, a run before this one, have left it in pytest's cache.
    folder = artifacts.registry_folder(request.config.cache.mkdir("artifacts"))
    try:
        tag = open_registry(str(folder)).entries()[0].tag
    except (RegistryError, IndexError):
        tag = artifacts.compile_embedded(folder)
    port = free_port()
    config = shipped_config(port)
    pool = config["applications"][0]["args"]["pools"]["cpu"]
    pool["artifact"] = {"source": str(folder), "tag": tag}
    pool["engine"] = {"threads": 1}
    path = tmp_path_factory.mktemp("compiled") / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with serving(path, port) as running:
        yield running


def test_it_runs_the_artifact_and_says_where_its_start_went(compiled: Service) -> None:
    measured = compiled.pool("cpu")["measured"]
    assert measured["graphs"].startswith("artifact cpu-64x64-b4-float32-")
    # Calibration saw no batch beyond the artifact's largest.
    assert measured["max_rows"] <= artifacts.BATCH
    assert max(map(int, measured["step_cost_ms"])) == artifacts.BATCH
    assert {"import", "download", "load", "artifact", "warm_up"} == set(measured["startup_s"])
    assert all(seconds >= 0 for seconds in measured["startup_s"].values())


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a red circle on a blue background"},
        {"prompt": "a green square on a white background", "guidance_scale": 1},
        # No graph is compiled for this size.
        {"prompt": "a yellow star on a black background", "width": 72, "height": 72},
    ],
    ids=["guided", "unguided", "another size"],
)
def test_pictures_are_stock_diffusers(compiled: Service, fields: dict[str, object]) -> None:
    import torch

    from models.evaluate import EMBEDDED, load_pipeline

    numbers = {"num_inference_steps": 8, "guidance_scale": 2.0}
    generator = torch.Generator().manual_seed(7)
    stock = load_pipeline(EMBEDDED)(**numbers | fields, generator=generator).images[0]
    out = io.BytesIO()
    stock.save(out, "PNG")
    answer = compiled.post(**fields, seed=7)
    assert answer.status_code == 200, answer.text
    assert_same_picture(answer.content, out.getvalue())
