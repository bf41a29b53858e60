"""What the exporter makes, says of it and leaves behind; what it refuses."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import Attention

from compile.exporters import create_exporter
from compile.exporters.base import CannotRunHereError, ExportError, ExportRequest
from tests.neuron.conftest import ROWS, Build, export

ROOT = Path(__file__).resolve().parents[2]
SD = ["unet", "text_encoder", "vae_encoder", "vae_decoder"]
SDXL = ["unet", "text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder"]


@pytest.mark.parametrize(("kind", "names"), [("sd1", SD), ("sdxl", SDXL)])
def test_graphs_are_described_as_they_are(kind: str, names: list[str], build: Build) -> None:
    built = build(kind)
    assert [graph.component for graph in built.graphs] == names
    assert {g.component: g.batch for g in built.graphs} == {**dict.fromkeys(names, 1), "unet": ROWS}
    for graph in built.graphs:
        module = torch.jit.load(built.folder / graph.path)
        assert [list(spec.shape) for spec in graph.inputs] == module.shapes
        assert [spec.dtype for spec in graph.inputs] == [
            str(one.dtype).removeprefix("torch.") for one in module.kinds
        ]
    total = len(names)
    assert sorted(name for name, _, _ in built.told) == sorted(names)
    assert [(done, of) for _, done, of in built.told] == [(i + 1, total) for i in range(total)]


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_each_graph_gives_what_the_eager_model_gives(
    kind: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compile.exporters.neuron._has_device", lambda: True)
    built = build(kind)
    cls = StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline
    pipe = cls.from_pretrained(built.snapshot)
    generator = torch.Generator().manual_seed(0)
    for graph in built.graphs:
        inputs = {spec.name: draw(spec, generator) for spec in graph.inputs}
        with torch.inference_mode():
            found = create_exporter("neuron").run(built.snapshot, built.folder, graph, inputs)
            wanted = eager(pipe, graph.component, inputs)
        assert {spec.name: spec.shape for spec in graph.outputs} == {
            name: tuple(out.shape) for name, out in found.items()
        }
        assert set(found) == set(wanted)
        for name, out in found.items():
            error = (out - wanted[name]).abs().max() / wanted[name].abs().max()
            assert error <= 1e-5, (graph.name, name, error)


def draw(spec: Any, generator: torch.Generator) -> torch.Tensor:
    if spec.dtype == "int64":
        return torch.randint(0, 100, spec.shape, generator=generator)
    if spec.name == "timestep":
        return torch.randint(0, 1000, spec.shape, generator=generator).float()
    return torch.randn(spec.shape, generator=generator)


def eager(pipe: Any, component: str, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    part = getattr(pipe, component, pipe.vae)
    if component == "unet":
        added = {name: inputs[name] for name in ("text_embeds", "time_ids") if name in inputs}
        hidden = inputs["encoder_hidden_states"]
        out = part(inputs["sample"], inputs["timestep"], hidden, added_cond_kwargs=added or None)
        return {"prediction": out.sample}
    if component == "vae_decoder":
        return {"pixels": part.decode(inputs["latents"]).sample}
    if component == "vae_encoder":
        return {"moments": part.encode(inputs["pixels"]).latent_dist.parameters}
    out = part(inputs["input_ids"], output_hidden_states=True)
    if not hasattr(pipe, "text_encoder_2"):
        return {"hidden": out.last_hidden_state}
    found = {"hidden": out.hidden_states[-2]}
    return found | ({"pooled": out.text_embeds} if component == "text_encoder_2" else {})


def test_a_machine_without_a_device_runs_no_graph(build: Build) -> None:
    built = build("sd1")
    with pytest.raises(CannotRunHereError, match="no Neuron device"):
        create_exporter("neuron").run(built.snapshot, built.folder, built.graphs[0], {})


def test_flags_and_environment_are_recorded_as_they_were(build: Build) -> None:
    for kind, names in (("sd1", SD), ("sdxl", SDXL)):
        built = build(kind)
        record = json.loads((built.folder / "neuron.json").read_text())
        in_order = [name for name, _, _ in built.told]
        assert record["compiler_flags"] == {
            name: trace["compiler_args"] for name, trace in zip(in_order, built.traces, strict=True)
        }
        for name, flags in record["compiler_flags"].items():
            words = flags.split()
            assert words[words.index("--auto-cast") + 1] == "matmult"
            assert words[words.index("--target") + 1] == "inf2"
            assert ("transformer" in words) == name.startswith("text_encoder")
            assert ("--model-type=unet-inference" in words) != name.startswith("text_encoder")
        assert set(record["compiler_flags"]) == set(names)
        for trace in built.traces:
            seen = trace["environment"]
            assert {name: seen[name] for name in record["environment"]} == record["environment"]
            assert seen["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn1"
            assert trace["inline_weights_to_neff"] is True
    assert record["environment"]["NEURON_FUSE_SOFTMAX"] == "1"


def test_nothing_else_is_left_behind(
    model_folder: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path full of the words by which optimum-neuron tells parts changes nothing either."""
    snapshot = tmp_path / "my-unet-and-vae"
    shutil.copytree(model_folder("sd1"), snapshot)
    monkeypatch.setenv("NEURON_CC_FLAGS", "--surprise")
    monkeypatch.delenv("NEURON_FUSE_SOFTMAX", raising=False)
    before, attention = dict(os.environ), Attention.get_attention_scores
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    files = set(snapshot.rglob("*"))
    built = export(snapshot, tmp_path / "out", rows=2, instance_type="trn2", auto_cast="none")
    assert dict(os.environ) == before
    assert Attention.get_attention_scores is attention
    assert list(temporary.iterdir()) == []
    assert set(snapshot.rglob("*")) == files
    for trace in built.traces:
        assert "NEURON_CC_FLAGS" not in trace["environment"]
        assert trace["environment"]["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn2"
        assert "--auto-cast none" in trace["compiler_args"]
        assert "--target trn2" in trace["compiler_args"]
    text = json.loads((built.folder / "neuron.json").read_text())["compiler_flags"]["text_encoder"]
    assert "unet" not in text
    kinds = {path.suffix for path in built.folder.rglob("*") if path.is_file()}
    assert kinds == {".json", ".neuron", ".txt"}
    assert {graph.tolerance for graph in built.graphs} == {1e-3}


def changed(folder: Path, target: Path, file: str, **values: Any) -> Path:
    """A copy of a model with other values in one of its JSON files."""
    shutil.copytree(folder, target)
    path = target / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return target


@pytest.mark.parametrize(
    ("request_changes", "told"),
    [
        ({"batches": (2, 4)}, "--batch: got"),
        ({"vae_batch": 2}, "VAE batch: got 2"),
        ({"dtype": "bfloat16"}, "--dtype: got bfloat16.* cannot tell 981 from 980"),
    ],
)
def test_requests_that_optimum_neuron_would_get_wrong_are_refused(
    request_changes: dict[str, Any],
    told: str,
    model_folder: Callable[[Any], Path],
    tmp_path: Path,
) -> None:
    fields: dict[str, Any] = {
        "accelerator": "neuron",
        "height": 16,
        "width": 16,
        "batches": (2,),
        "options": create_exporter("neuron").options({}),
    }
    request = ExportRequest(**fields | request_changes)
    with pytest.raises(ExportError, match=told):
        create_exporter("neuron").export(model_folder("sd1"), tmp_path, request, lambda *_: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "_class_name is 'FluxPipeline'"),
        ("unet/config.json", {"time_cond_proj_dim": 8}, "time_cond_proj_dim"),
        ("unet/config.json", {"in_channels": 9}, "in_channels: in-painting"),
    ],
)
def test_models_that_optimum_neuron_would_get_wrong_are_refused(
    file: str,
    values: dict[str, Any],
    told: str,
    model_folder: Callable[[Any], Path],
    tmp_path: Path,
) -> None:
    snapshot = changed(model_folder("sd1"), tmp_path / "model", file, **values)
    with pytest.raises(ExportError, match=told):
        export(snapshot, tmp_path / "out")


def test_timesteps_in_bfloat16_are_what_the_refusal_says() -> None:
    assert torch.tensor(981.0).bfloat16() == torch.tensor(980.0).bfloat16()


def test_a_temporary_folder_that_misleads_optimum_neuron_is_refused(
    model_folder: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "unet"))
    with pytest.raises(ExportError, match=r"TMPDIR: .*holds the word 'unet'"):
        export(model_folder("sd1"), tmp_path / "out")


def test_without_the_device_packages_it_says_where_they_are(
    model_folder: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_neuronx", None)
    exporter = create_exporter("neuron")
    request = ExportRequest("neuron", 16, 16, (2,), options=exporter.options({}))
    with pytest.raises(ExportError, match="AWS' own index"):
        exporter.export(model_folder("sd1"), tmp_path, request, lambda *_: None)


def test_facts_of_the_environment_are_the_pinned_ones() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints-neuron.txt").read_text().splitlines()
        if "==" in line
    )
    facts = create_exporter("neuron").environment()
    for name in ("neuronx-cc", "torch-neuronx", "optimum-neuron", "diffusers", "transformers"):
        assert facts[name].value == pins[name], name
    # The main environment's stands in, unless `make neuron-exact-test` runs this.
    assert facts["torch"].value == version("torch").partition("+")[0]
    for name in ("accelerate", "huggingface_hub", "numpy", "optimum", "peft", "tokenizers"):
        assert version(name) == pins[name], name
    assert facts["neuronx-cc"].rule == "at_least"
    assert facts["torch-neuronx"].rule == facts["torch"].rule == "equal"
    assert facts["NEURON_FUSE_SOFTMAX"].value == "1"


def test_no_placeholder_of_the_device_packages_is_installed() -> None:
    stubs = ROOT / "tests" / "neuron" / "stubs"
    for name in ("torch_neuronx", "neuronx_distributed", "neuronxcc", "libneuronxla", "torch_xla"):
        assert stubs in Path(str(importlib.import_module(name).__file__)).parents, name
