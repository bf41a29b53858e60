"""Export, validation and the command's refusals, without a compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from compile import build as building
from compile.cli import main
from compile.exporters import create_exporter
from compile.exporters.aot import AotExporter
from compile.exporters.base import (
    CannotRunHereError,
    ExportedGraph,
    ExportError,
    ExportRequest,
    Fact,
    Progress,
    Tensors,
)
from compile.exporters.cuda import CudaExporter
from compile.manifest import MANIFEST, parse
from compile.modules import load
from compile.parts import ModelShape
from compile.registry import open_registry
from compile.snapshot import SnapshotError, components, content_digest, take
from tests.deployments import tiny_models

CPU = torch.device("cpu")
Distort = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build("sdxl", tmp_path_factory.mktemp("model") / "sdxl")


class EagerExporter:
    """Graphs that are the eager model in some dtype, distorted as a test says."""

    def __init__(self, distort: Distort = lambda x: x, tolerance: float = 1e-4) -> None:
        self.distort, self.tolerance = distort, tolerance

    def options(self, given: Mapping[str, str]) -> Mapping[str, str]:
        return {"level": "2", **given}

    def environment(self) -> Mapping[str, Fact]:
        return {"torch": Fact("1")}

    def export(
        self, snapshot: Path, target: Path, request: ExportRequest, progress: Progress
    ) -> Sequence[ExportedGraph]:
        graphs = []
        for done, part in enumerate(ModelShape(snapshot).parts(request)):
            progress(part.name, done, 4)
            (target / f"{part.name}.bin").write_text(part.name, encoding="utf-8")
            graphs.append(
                ExportedGraph(
                    name=part.name,
                    component=part.component,
                    batch=part.batch,
                    path=f"{part.name}.bin",
                    inputs=part.inputs,
                    outputs=part.outputs,
                    tolerance=self.tolerance,
                )
            )
        return graphs

    def run(
        self, snapshot: Path, target: Path, graph: ExportedGraph, inputs: Tensors
    ) -> Mapping[str, torch.Tensor]:
        assert {name: (tuple(x.shape), str(x.dtype)) for name, x in inputs.items()} == {
            one.name: (one.shape, f"torch.{one.dtype}") for one in graph.inputs
        }
        module = load(snapshot, graph.component, "float32", CPU)
        with torch.no_grad():
            found = module(*(inputs[one.name] for one in graph.inputs))
        return {one.name: self.distort(x) for one, x in zip(graph.outputs, found, strict=True)}


def silent(what: str, done: int, total: int) -> None:
    """No progress bar."""


def make(model: Path, target: Path, exporter: Any, **changes: Any) -> Any:
    numbers = {"accelerator": "cpu", "height": 16, "width": 24, "batches": (2, 3), **changes}
    request = ExportRequest(**numbers)
    return building.build(take(str(model), None), request, exporter, target, silent, silent)


def test_a_build_states_everything(model: Path, tmp_path: Path) -> None:
    manifest = make(model, tmp_path / "out", EagerExporter())
    assert parse((tmp_path / "out" / MANIFEST).read_text("utf-8"), "out") == manifest
    assert [record.graph.name for record in manifest.graphs] == [
        "text_encoder-1",
        "text_encoder_2-1",
        "unet-2",
        "unet-3",
        "vae_decoder-1",
    ]
    assert all(record.error is not None and record.error < 1e-5 for record in manifest.graphs)
    assert [graph.batch for graph in manifest.graph("unet")] == [2, 3]
    shapes = {one.name: one.shape for one in manifest.graph("unet")[1].inputs}
    assert shapes == {
        "sample": (3, 4, 8, 12),
        "timestep": (3,),
        "encoder_hidden_states": (3, 16, 32),
        "text_embeds": (3, 16),
        "time_ids": (3, 6),
    }
    assert {file.path for file in manifest.files} == {
        f"{record.graph.name}.bin" for record in manifest.graphs
    }
    assert manifest.model.revision == content_digest(model)
    with pytest.raises(ExportError, match=r"--out: .* is not empty"):
        make(model, tmp_path / "out", EagerExporter())


def neighbours(x: torch.Tensor) -> torch.Tensor:
    """Rows mixed up, as in a graph that broadcasts the first row's timestep."""
    return x[:1].expand_as(x)


@pytest.mark.parametrize(
    ("distort", "line"),
    [
        (lambda x: x * 1.001, r"text_encoder-1: hidden is 0\.001 off the eager model; at most"),
        (lambda x: x * float("nan"), r"text_encoder-1: hidden is nan off the eager model"),
        (lambda x: x[..., :-1], r"text_encoder-1: hidden is \[1, 16, 15\], eager \[1, 16, 16\]"),
        (neighbours, r"unet-2: prediction is .* off the eager model"),
    ],
)
def test_a_graph_that_does_other_than_the_model_is_not_published(
    distort: Distort, line: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=line):
        make(model, tmp_path / "out", EagerExporter(distort))
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_half_precision_is_held_to_its_own_tolerance(model: Path, tmp_path: Path) -> None:
    exporter = EagerExporter(lambda x: x.bfloat16(), tolerance=8e-2)
    manifest = make(model, tmp_path / "out", exporter)
    assert all(1e-4 < (record.error or 0) < 2e-2 for record in manifest.graphs)


def test_a_graph_for_a_device_that_is_not_here_is_published_as_not_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Any, *arguments: Any) -> Any:
        raise CannotRunHereError("no such device here")

    monkeypatch.setattr(EagerExporter, "run", run)
    manifest = make(model, tmp_path / "out", EagerExporter())
    assert {record.not_run for record in manifest.graphs} == {"no such device here"}
    assert {record.error for record in manifest.graphs} == {None}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"height": 15}, "--height: got 15; a multiple of 2 needed"),
        ({"width": 17}, "--width: got 17; a multiple of 2 needed"),
    ],
)
def test_a_size_that_the_model_cannot_paint(
    changes: dict[str, int], line: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=line):
        make(model, tmp_path / "out", EagerExporter(), **changes)


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("model_index.json", '"UNet2DConditionModel"', "unet is Else; UNet2DConditionModel needed"),
        ("unet/config.json", '"text_time"', "--model: unet/config.json: Expecting"),
    ],
)
def test_a_model_that_is_not_compiled_here(
    file: str, change: str, line: str, model: Path, tmp_path: Path
) -> None:
    import shutil

    other = shutil.copytree(model, tmp_path / "model")
    path = other / file
    broken = '"Else"' if file == "model_index.json" else "text_time"
    path.write_text(path.read_text("utf-8").replace(change, broken), encoding="utf-8")
    with pytest.raises(ExportError, match=line):
        ModelShape(other)


def test_the_snapshot_of_a_folder(model: Path, tmp_path: Path) -> None:
    assert set(components(model)) == {
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "unet",
        "vae",
    }
    with pytest.raises(SnapshotError, match=r"--revision: got 'main'; .* is a folder and has none"):
        take(str(model), "main")
    with pytest.raises(SnapshotError, match="--model: no folder at '/not/there'"):
        take("/not/there", None)
    with pytest.raises(SnapshotError, match=r"holds no model_index\.json"):
        take(str(tmp_path), None)


# What only a GPU can run is held to its contract here.


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> CudaExporter:
    """The CUDA exporter, told of a GPU that is not here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr("compile.exporters.cuda.driver_version", lambda files: "570.1")
    return CudaExporter()


def test_a_cuda_artifact_is_for_one_kind_of_gpu(gpu: CudaExporter) -> None:
    facts = gpu.environment()
    assert facts["gpu"] == Fact("NVIDIA H200")
    assert facts["gpu_architecture"] == Fact("sm_90")
    assert facts["driver"] == Fact("570.1", "at_least")
    assert {"torch", "cuda", "cudnn", "triton", "cpu_isa", "libc"} <= set(facts)
    assert facts["triton"].rule == facts["torch"].rule == "equal"


def test_cuda_options_are_complete_and_checked(gpu: CudaExporter) -> None:
    assert gpu.options({}) == {"max_autotune": "false", "coordinate_descent_tuning": "false"}
    options = gpu.options({"max_autotune": "true"})
    assert gpu.inductor_configs(options) == {
        "max_autotune": True,
        "coordinate_descent_tuning": False,
    }
    with pytest.raises(ExportError, match="--option: unknown option 'autotune'; known: max_"):
        gpu.options({"autotune": "true"})
    with pytest.raises(ExportError, match="--option: max_autotune: got '1'; true or false"):
        gpu.options({"max_autotune": "1"})


def test_cuda_weights_are_channels_last(gpu: CudaExporter) -> None:
    convolution = torch.nn.Conv2d(4, 4, 3)
    gpu.arrange(convolution)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_is_not_exported_without_a_gpu(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotRunHereError, match="torch sees no cuda device here"):
        CudaExporter().export(
            model, tmp_path, ExportRequest("cuda", 16, 16, (2,), dtype="bfloat16"), silent
        )


def test_there_is_an_exporter_for_each_accelerator() -> None:
    assert isinstance(create_exporter("cpu"), AotExporter)
    assert isinstance(create_exporter("cuda"), CudaExporter)
    wrong: Any = "tpu"
    with pytest.raises(ValueError, match="accelerator: got 'tpu'; known: cpu, cuda, neuron"):
        create_exporter(wrong)
    with pytest.raises(ExportError, match="--option: unknown option 'x'; there is none for cpu"):
        create_exporter("cpu").options({"x": "1"})


# The command line.

GOOD = ["--model", "embedded", "--accelerator", "cpu", "--height", "64", "--width", "64"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([*GOOD, "--batch", "2"], "--publish or --out: one needed"),
        ([*GOOD, "--batch", "2", "--publish", "artifacts"], "registry: got 'artifacts'; a folder"),
        ([*GOOD, "--batch", "2", "--option", "x=1", "--publish", "/tmp"], "unknown option 'x'"),
        ([*GOOD, "--batch", "2", "--revision", "main", "--out", "OUT"], "--revision: got 'main'"),
        (["list", "/not/there"], "registry: no folder at '/not/there'"),
        (["show", "OUT", "cpu-64x64"], "no artifact 'cpu-64x64'"),
        (["publish", "OUT", "/not/there"], "No such file or directory: '/not/there/manifest.json'"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_1(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path) if word == "OUT" else word for word in arguments]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert line in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([*GOOD, "--batch", "2,x"], "argument --batch: got '2,x'; numbers like 2,4,8 needed"),
        ([*GOOD, "--batch", "2", "--vae-batch", "0"], "--vae-batch: got 0; at least 1 needed"),
        ([*GOOD, "--batch", "2", "--option", "x"], "argument --option: got 'x'; NAME=VALUE needed"),
        ([*GOOD[:2], "--batch", "2"], "the following arguments are required: --accelerator"),
        ([*GOOD, "--bat", "2"], "the following arguments are required: --batch"),
    ],
)
def test_arguments_are_checked_before_anything_is_loaded(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert line in capsys.readouterr().err


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command with an exporter that needs no compiler."""
    monkeypatch.setattr("compile.cli.create_exporter", lambda name: EagerExporter())


TINY = ["--accelerator", "cpu", "--height", "16", "--width", "16", "--batch", "4,2,2"]


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_published_is_kept(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    assert main(["--model", str(model), *TINY, "--publish", str(blocked)]) == 1
    hint = next(
        line for line in capsys.readouterr().err.splitlines() if line.startswith("The build")
    )
    *_, command, registry, build = hint.split()
    assert (command, registry) == ("publish", str(blocked))
    blocked.unlink()
    assert main([command, registry, build]) == 0
    (entry,) = open_registry(registry).entries()
    manifest = open_registry(registry).manifest(entry)
    assert manifest.batches == (2, 4)
    assert manifest.options == {"level": "2"}


@pytest.mark.usefixtures("quick")
def test_a_published_build_leaves_nothing_behind_unless_asked(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    arguments = ["--model", str(model), *TINY, "--publish", str(tmp_path / "registry")]
    assert main(arguments) == 0
    assert list((tmp_path / "temporary").iterdir()) == []
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / MANIFEST).is_file()


def test_no_compiler_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(ExportError, match=r"no C\+\+ compiler here: install g\+\+"):
        create_exporter("cpu").export(model, tmp_path, ExportRequest("cpu", 16, 16, (2,)), silent)
