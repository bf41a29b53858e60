"""An adapter fused when the graphs are compiled: recorded, demanded, and in every picture."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compile.build import build
from compile.exporters import create_exporter
from compile.exporters.base import ExportError, ExportRequest
from compile.lora import Lora
from compile.manifest import Manifest
from compile.registry import open_registry
from compile.snapshot import take
from deployments.graphs import choose_graphs
from deployments.messages import ImageFailure, ImageResult
from deployments.model_info import load_model_info
from deployments.options import ArtifactOptions, LoraOptions, ReplicaOptions
from deployments.replica import PoolReplica
from tests.deployments.harness import ask
from tests.deployments.test_lora import write
from tests.deployments.test_oracle import stock
from tests.neuron.test_pictures import reference

SCALE = 0.7


@pytest.fixture(scope="module")
def model(model_folder: Callable[[Any], Path]) -> Path:
    return model_folder("sd1")


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of UNet and text encoder."""
    return write("sd1", model, "wild", tmp_path_factory.mktemp("lora") / "wild")


def compiled(model: Path, target: Path, lora: Lora | None, accelerator: Any = "neuron") -> Manifest:
    exporter = create_exporter(accelerator)
    given = {"auto_cast": "none"} if accelerator == "neuron" else {}
    request = ExportRequest(accelerator, 16, 16, (4,), options=exporter.options(given))
    silent = lambda *how: None  # noqa: E731
    return build(take(str(model), None), request, exporter, target, silent, silent, lora=lora)


@pytest.fixture(scope="module")
def registry(model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of graphs with the adapter; each was run once against the eager model with it."""
    root = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compile.exporters.neuron._has_device", lambda: True)
        target = tmp_path_factory.mktemp("builds") / "fused"
        manifest = compiled(model, target, Lora(str(adapter), scale=SCALE))
    assert manifest.lora is not None
    assert manifest.lora.scale == SCALE
    assert all(one.error is not None and one.error <= 1e-3 for one in manifest.graphs)
    open_registry(str(root)).publish(target, manifest)
    return root


def levels(pixels: bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(pixels, np.uint8).astype(int)


def picture(image: bytes) -> np.ndarray[Any, Any]:
    return levels(np.asarray(Image.open(io.BytesIO(image))).tobytes())


def options(model: Path, registry: Path, loras: tuple[LoraOptions, ...]) -> ReplicaOptions:
    return ReplicaOptions(
        pool="inf2",
        accelerator="inf2",
        framework="neuron",
        model_source=str(model),
        artifact=ArtifactOptions(source=str(registry)),
        loras=loras,
        fuse_lora=bool(loras),
    )


def test_it_is_in_every_picture_and_answers_to_its_name(
    model: Path, adapter: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "0")
    named = LoraOptions(name="wild", source=str(adapter), scale=SCALE)
    replica = PoolReplica(options(model, registry, (named,)))
    asked = [ask(lora=lora, scheduler="euler") for lora in ("wild", None, "other")]

    async def paint() -> list[Any]:
        return await asyncio.gather(*(replica.generate(request) for request in asked))

    try:
        good, *refused = asyncio.run(paint())
    finally:
        replica.service.stop()
    assert isinstance(good, ImageResult), good
    for answer, lora in zip(refused, (None, "other"), strict=True):
        assert isinstance(answer, ImageFailure)
        assert f"lora: {lora!r} is not here; this replica has wild" in answer.message
    truth = reference(model)
    plain = levels(stock(truth, asked[0])[1])
    truth.pipe.load_lora_weights(str(adapter), adapter_name="wild")
    truth.pipe.set_adapters(["wild"], [SCALE])
    wanted, found = levels(stock(truth, asked[0])[1]), picture(good.image)
    assert abs(found - wanted).max() <= 1
    assert abs(found - plain).max() > 8  # it does something


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (None, r"lora: made with \w{12} at scale 0.7, here none"),
        ({"scale": 1.0}, r"lora: made with (\w{12}) at scale 0.7, here \1 at scale 1"),
        ({"source": "elsewhere"}, "no folder|revision: missing for the hub repository 'elsewhere'"),
    ],
)
def test_graphs_with_another_adapter_are_refused_by_field(
    changes: dict[str, Any] | None, told: str, model: Path, adapter: Path, registry: Path
) -> None:
    named = LoraOptions(name="wild", source=str(adapter), scale=SCALE)
    loras = () if changes is None else (named.model_copy(update=changes),)
    with pytest.raises(RuntimeError, match=told):
        choose_graphs(options(model, registry, loras), load_model_info(str(model), None))


def test_graphs_without_it_do_not_pass_for_those_with_it(
    model: Path, adapter: Path, tmp_path: Path
) -> None:
    manifest = compiled(model, tmp_path / "plain", None)
    open_registry(str(tmp_path / "registry")).publish(tmp_path / "plain", manifest)
    named = LoraOptions(name="wild", source=str(adapter), scale=SCALE)
    with pytest.raises(RuntimeError, match=r"lora: made with none, here \w{12} at scale 0.7"):
        choose_graphs(
            options(model, tmp_path / "registry", (named,)), load_model_info(str(model), None)
        )


def test_other_accelerators_fuse_when_they_load(model: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--lora: .*cpu take the weights.*fuse_lora: true"):
        compiled(model, tmp_path / "cpu", Lora(str(adapter)), "cpu")
