"""Cores as assigned, graphs that fit or are refused, sizes that were compiled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch_neuronx import experimental

from compile.neuron.graphs import NeuronGraphError
from deployments.backends import create_backend
from deployments.backends.neuron import NeuronBackend, assigned_cores, create
from deployments.options import ReplicaOptions
from tests.neuron.conftest import ROWS, Build, Built


def options(built: Built, **more: Any) -> ReplicaOptions:
    fields: dict[str, Any] = {
        "pool": "inf2",
        "accelerator": "inf2",
        "framework": "neuron",
        "model_source": str(built.snapshot),
    }
    return ReplicaOptions(**fields | more)


def load(built: Built) -> NeuronBackend:
    """As a replica does with an artifact that it has resolved."""
    return create(options(built), SimpleNamespace(located=SimpleNamespace(folder=built.folder)))


@pytest.mark.parametrize(
    ("visible", "found"),
    [("3", (3,)), ("0,1", (0, 1)), ("4-5", (4, 5)), ("7-7", (7,)), ("1,2", (1, 2))],
)
def test_cores_are_read_as_ray_and_the_runtime_write_them(
    visible: str, found: tuple[int, ...]
) -> None:
    assert assigned_cores(visible) == found


@pytest.mark.parametrize(
    ("visible", "told"),
    [
        (None, "is not set.*neuron_cores"),
        ("", "is not set"),
        ("0-3", "one or two cores"),
        ("1,1", "one or two cores"),
        ("5-4", "one or two cores"),
        ("a", "numbers and ranges"),
        ("0-", "numbers and ranges"),
        ("-1", "numbers and ranges"),
    ],
)
def test_other_assignments_are_refused(visible: str | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        assigned_cores(visible)


def test_one_core_has_everything(build: Build, cores: Callable[[str], None]) -> None:
    cores("5")
    experimental.placements.clear()
    backend = load(build("sdxl"))
    assert set(experimental.placements) == {(0, 1)}
    facts = backend.facts
    assert (facts.fixed_rows, facts.decode_batch, facts.overlap_decode) == (ROWS, 1, False)
    assert (facts.device, facts.dtype, facts.accelerator) == ("cpu", torch.float32, "neuron:5")
    assert facts.sizes == ((16, 16),)
    assert facts.size_conditioned
    assert facts.zero_empty_negative


def test_two_cores_share_the_rows_of_a_step(build: Build, cores: Callable[[str], None]) -> None:
    cores("2,3")
    experimental.placements.clear()
    backend = load(build("sd1"))
    # Text encoder, VAE's encoder and decoder, the UNet as it is loaded, the UNet on both cores.
    assert sorted(experimental.placements) == [(0, 1)] * 5 + [(1, 1)]
    assert backend.facts.fixed_rows == 2 * ROWS
    assert backend.facts.accelerator == "neuron:2,3"
    assert not backend.facts.zero_empty_negative


def test_a_pool_without_cores_or_artifact_says_what_it_lacks(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEURON_RT_VISIBLE_CORES", raising=False)
    with pytest.raises(ValueError, match="NEURON_RT_VISIBLE_CORES is not set"):
        load(build("sd1"))
    with pytest.raises(ValueError, match=r"pool 'inf2': artifact: missing.*python -m compile"):
        create_backend(options(build("sd1")))


def altered(built: Built, target: Path, component: str, **neuron: Any) -> Path:
    """A copy of the artifact whose component says something else of itself."""
    shutil.copytree(built.folder, target)
    path = target / component / "config.json"
    config = json.loads(path.read_text())
    config["neuron"] |= neuron
    path.write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("component", "neuron", "told"),
    [
        ("unet", {"compiler_version": "2.22.1.0"}, "unet/.*compiler_version: made with.*2.22.1.0"),
        ("vae_decoder", {"compiler_version": "10.0"}, "vae_decoder/.*compiler_version"),
        ("text_encoder", {"static_batch_size": 2}, "text_encoder/.*static_batch_size: got 2"),
        ("unet", {"dynamic_batch_size": True}, "dynamic_batch_size True"),
        ("unet", {"tensor_parallel_size": 2}, "tensor_parallel_size 2"),
        ("unet", {"instance_type": "inf1"}, "inf1: missing or unknown"),
        ("vae_decoder", {"static_width": 4}, "vae_decoder/.*static_width: got 8, 4; 8, 8 needed"),
        ("vae_encoder", {"static_height": 8}, "vae_encoder/.*got 8, 16; 16, 16 needed"),
    ],
)
def test_graphs_that_do_not_fit_are_refused_by_field(
    component: str, neuron: dict[str, Any], told: str, build: Build, tmp_path: Path
) -> None:
    folder = altered(build("sd1"), tmp_path / "graphs", component, **neuron)
    with pytest.raises(NeuronGraphError, match=told):
        NeuronBackend(folder, (0,))


def test_an_earlier_compiler_is_fine(
    build: Build, tmp_path: Path, cores: Callable[[str], None]
) -> None:
    cores("0")
    folder = altered(build("sd1"), tmp_path / "graphs", "unet", compiler_version="2.9.0.0")
    assert NeuronBackend(folder, (0,)).facts.fixed_rows == ROWS


@pytest.mark.parametrize(("here", "fits"), [("trn1", True), ("trn2", False)])
def test_graphs_of_other_cores_are_refused(
    here: str,
    fits: bool,
    build: Build,
    cores: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """inf2's graphs run on trn1, which has the same cores, and not on trn2."""
    cores("0")
    monkeypatch.setattr("deployments.backends.neuron.get_neuron_major", lambda: 250)
    monkeypatch.setattr("deployments.backends.neuron.current_instance_type", lambda: here)
    if fits:
        assert NeuronBackend(build("sd1").folder, (0,)).facts.fixed_rows == ROWS
        return
    with pytest.raises(NeuronGraphError, match="instance_type: made for trn1 cores, here trn2"):
        NeuronBackend(build("sd1").folder, (0,))


@pytest.mark.parametrize(
    ("kind", "gone", "told"),
    [
        ("sd1", "unet/model.neuron", "unet: no graph"),
        ("sd1", "vae_encoder/model.neuron", "vae_encoder: no graph"),
        ("sdxl", "text_encoder_2/model.neuron", "text_encoder_2: no graph"),
        ("sd1", "model_index.json", "model_index.json: cannot be read"),
        ("sd1", "text_encoder/config.json", "text_encoder/config.json: cannot be read"),
    ],
)
def test_half_an_artifact_is_refused(
    kind: str, gone: str, told: str, build: Build, tmp_path: Path
) -> None:
    folder = tmp_path / "graphs"
    shutil.copytree(build(kind).folder, folder)
    (folder / gone).unlink()
    with pytest.raises(NeuronGraphError, match=told):
        NeuronBackend(folder, (0,))


def test_an_unknown_pipeline_is_refused(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "graphs"
    shutil.copytree(build("sd1").folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(NeuronGraphError, match="_class_name is 'FluxPipeline'"):
        NeuronBackend(folder, (0,))
