"""Compile, publish, resolve, serve: the embedded model on this CPU."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compile.cli import main
from compile.exporters.base import Fact
from compile.exporters.cpu import CpuExporter
from compile.inductor import PackagedGraph
from compile.manifest import MANIFEST, ArtifactError, fingerprint
from compile.modules import load
from compile.registry import open_registry
from deployments.backends import create_backend
from deployments.backends.packaged import JustInTime, Packaged
from deployments.backends.pipeline import PipelineBackend
from deployments.graphs import choose_graphs
from deployments.messages import ImageRequest
from deployments.model_info import load_model_info
from deployments.options import ArtifactOptions, ReplicaOptions
from tests.artifacts import BATCH, embedded_folder
from tests.deployments.harness import ask, solo

PROMPT = "a red circle on a blue background"


def options(source: Path | str, model: Path | str = "embedded", **artifact: Any) -> ReplicaOptions:
    return ReplicaOptions(
        pool="cpu",
        accelerator="cpu",
        framework="cpu",
        model_source=str(model),
        threads=1,
        artifact=ArtifactOptions(source=str(source), **artifact),
    )


def choose(told: ReplicaOptions) -> Any:
    return choose_graphs(told, load_model_info(told.model_source, None))


@pytest.fixture(scope="module")
def packaged(registry: Path) -> Any:
    """The backend as a replica makes it."""
    told = options(registry)
    return create_backend(told, choose(told))


@pytest.fixture(scope="module")
def eager() -> Any:
    told = ReplicaOptions(
        pool="cpu", accelerator="cpu", framework="cpu", model_source="embedded", threads=1
    )
    return create_backend(told)


def picture(backend: PipelineBackend, request: ImageRequest) -> torch.Tensor:
    """The finished picture before it is rounded, 0…1."""
    latents, _ = solo(backend, request)
    with torch.inference_mode():
        pixels = backend.pipe.vae.decode(
            latents / backend.pipe.vae.config.scaling_factor, return_dict=False
        )[0]
    return (pixels / 2 + 0.5).clamp(0, 1)


def paint(size: int, guidance_scale: float = 2.0) -> ImageRequest:
    return ask(
        prompt=PROMPT,
        width=size,
        height=size,
        num_inference_steps=8,
        guidance_scale=guidance_scale,
        seed=7,
    )


def test_the_artifacts_picture_is_the_eager_one(packaged: Any, eager: Any) -> None:
    difference = (picture(packaged, paint(64)) - picture(eager, paint(64))).abs().max()
    # Other code: not a bit is the same by chance. Yet nobody can see it.
    assert 0 < difference < 1e-4


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_another_size_is_painted_by_the_eager_parts(
    guidance_scale: float, packaged: Any, eager: Any
) -> None:
    request = paint(72, guidance_scale)
    ours, theirs = (
        np.frombuffer(solo(backend, request)[1], np.uint8).astype(int)
        for backend in (packaged, eager)
    )
    # The text has no size, so its graph is used: last bits differ, and may fall on a rounding edge.
    assert np.abs(ours - theirs).max() <= 1


def test_the_manifest_states_each_graphs_error(registry: Path) -> None:
    (entry,) = open_registry(str(registry)).entries()
    manifest = open_registry(str(registry)).manifest(entry)
    errors = {record.graph.name: record.error for record in manifest.graphs}
    assert errors.keys() == {"text_encoder-1", f"unet-{BATCH}", "vae_decoder-1"}
    assert all(error is not None and 0 < error < 1e-4 for error in errors.values())


def test_no_weights_travel_with_the_graphs(registry: Path) -> None:
    (folder,) = registry.iterdir()
    assert not list(folder.glob("*.safetensors"))
    with zipfile.ZipFile(folder / f"unet-{BATCH}.pt2") as package:
        stored = {Path(name).suffix for name in package.namelist()}
    assert stored <= {"", ".so", ".cpp", ".json"}, stored
    weights = (embedded_folder() / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert (folder / f"unet-{BATCH}.pt2").stat().st_size < weights / 2


def test_the_weights_are_those_of_the_model_and_not_copies(packaged: Any, eager: Any) -> None:
    """What is done to them in place (a LoRA fused) holds for the graphs; a bias of three too."""
    latents = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    bias = packaged.pipe.vae.decoder.conv_out.bias
    before = packaged.pipe.vae.decode(latents, return_dict=False)[0]
    with torch.no_grad():
        bias += 0.25
        after = packaged.pipe.vae.decode(latents, return_dict=False)[0]
        bias -= 0.25
    assert torch.allclose(after, before + 0.25, atol=1e-5)


LOAD = """
import sys
from pathlib import Path
import torch
from compile.inductor import PackagedGraph
from compile.modules import load
from tests.artifacts import embedded_folder
module = load(embedded_folder(), "vae_decoder", "float32", torch.device("cpu"))
(pixels,) = PackagedGraph(Path(sys.argv[1]), module)(torch.zeros(1, 16, 8, 8))
print(tuple(pixels.shape))
"""


def test_a_replica_needs_no_compiler(registry: Path, tmp_path: Path) -> None:
    (path,) = registry.glob("*/vae_decoder-1.pt2")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)],
        cwd=embedded_folder().parents[1],
        env={"PATH": str(nothing), "PYTHONPATH": ".", "TORCHINDUCTOR_CACHE_DIR": str(nothing)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "(1, 3, 64, 64)", done.stderr[-2000:]
    assert list(nothing.iterdir()) == []  # nor did it look for one


def test_inputs_laid_out_otherwise_give_the_same(packaged: Any) -> None:
    latents = torch.randn(4, 16, 8, 8)
    hidden = torch.randn(4, 32, 128)
    times = torch.tensor([900.0, 500.0, 20.0, 1.0])

    def run(sample: torch.Tensor, text: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = packaged.pipe.unet(sample, t, text, return_dict=False)[0]
        return out

    straight = run(latents, hidden, times)
    odd = latents.to(memory_format=torch.channels_last)
    text = hidden.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(run(odd, text, times), straight)
    assert torch.equal(run(odd[1:], text[1:], times[1:]), straight[1:])


def test_a_model_of_other_shapes_is_refused(registry: Path) -> None:
    (entry,) = open_registry(str(registry)).entries()
    module = load(embedded_folder(), "vae_decoder", "float32", torch.device("cpu"))
    path = registry / entry.tag / "vae_decoder-1.pt2"
    with pytest.raises(ArtifactError, match=r"weight .*: the model has none"):
        PackagedGraph(path, load(embedded_folder(), "unet", "float32", torch.device("cpu")))
    with pytest.raises(ArtifactError, match=r"compiled for float32 .*, the model has bfloat16"):
        PackagedGraph(path, module.to(torch.bfloat16))


# What is wrong with the artifact, the machine, the model or the way: each is refused with the
# field named, or survived by compiling just in time.


@pytest.fixture
def copy(registry: Path, tmp_path: Path) -> Path:
    shutil.copytree(registry, tmp_path / "registry")
    return tmp_path / "registry"


def spoil_graph(copy: Path) -> None:
    (path,) = copy.glob("*/vae_decoder-1.pt2")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def drop_graph(copy: Path) -> None:
    next(copy.glob(f"*/unet-{BATCH}.pt2")).unlink()


def half_upload(copy: Path) -> None:
    (folder,) = copy.iterdir()
    (folder / MANIFEST).unlink()


def bad_manifest(copy: Path) -> None:
    (path,) = copy.glob(f"*/{MANIFEST}")
    path.write_text(path.read_text("utf-8")[:-20], encoding="utf-8")


@pytest.mark.parametrize("fallback", ["refuse", "jit"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_graph, "vae_decoder-1.pt2: contents changed since it was published"),
        (drop_graph, f"unet-{BATCH}.pt2: missing"),
        (half_upload, "none of 0 artifacts fits: it is empty"),
        (bad_manifest, "manifest.json: (top): Invalid JSON"),
        (shutil.rmtree, "registry: no folder at "),
    ],
)
def test_a_spoilt_artifact(
    spoil: Callable[[Path], None], reason: str, fallback: str, copy: Path
) -> None:
    assert isinstance(choose(options(copy)), Packaged)
    spoil(copy)
    assert_refused_or_survived(options(copy, fallback=fallback), reason)


def assert_refused_or_survived(told: ReplicaOptions, *reasons: str) -> None:
    assert told.artifact is not None
    if told.artifact.fallback == "refuse":
        with pytest.raises(RuntimeError) as caught:
            choose(told)
        message = str(caught.value)
        assert message.startswith("pool 'cpu': artifact: ")
    else:
        graphs = choose(told)
        assert isinstance(graphs, JustInTime)
        assert graphs.batches == (2, 4, 8, 16)
        message = graphs.description
    for reason in reasons:
        assert reason in message


@pytest.mark.parametrize("fallback", ["refuse", "jit"])
def test_another_torch(fallback: str, registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = CpuExporter.environment

    def newer(self: CpuExporter) -> Any:
        return {**real(self), "torch": Fact("2.99.0")}

    monkeypatch.setattr(CpuExporter, "environment", newer)
    reason = f"torch: made with {torch.__version__}, here 2.99.0"
    assert_refused_or_survived(options(registry, fallback=fallback), reason)


def test_another_size(registry: Path, tmp_path: Path) -> None:
    model = shutil.copytree(embedded_folder(), tmp_path / "model")
    serving = json.loads((model / "serving.json").read_text("utf-8"))
    serving |= {"width": 128, "height": 128}
    (model / "serving.json").write_text(json.dumps(serving), encoding="utf-8")
    assert_refused_or_survived(
        options(registry, model), "height: made for 64, here 128", "width: made for 64, here 128"
    )


def test_another_revision_of_the_model(registry: Path, tmp_path: Path) -> None:
    model = shutil.copytree(embedded_folder(), tmp_path / "model")
    assert isinstance(choose(options(registry, model)), Packaged)  # the same wherever it lies
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the last weight: the first bytes of the file are as they were
    path.write_bytes(data)
    assert_refused_or_survived(options(registry, model), "model.revision: made from sha256:")


def test_another_precision(registry: Path) -> None:
    told = options(registry).model_copy(update={"dtype": "bfloat16"})
    assert_refused_or_survived(told, "dtype: made for float32, here bfloat16")


def test_another_artifact_than_the_pinned_one(registry: Path) -> None:
    (entry,) = open_registry(str(registry)).entries()
    good = options(registry, tag=entry.tag, revision=entry.revision)
    assert choose(good).description == f"artifact {entry.tag} at {entry.revision}"
    moved = options(registry, tag=entry.tag, revision=f"sha256:{'0' * 64}")
    assert_refused_or_survived(moved, f"is now {entry.revision}, not sha256:0000")


@pytest.mark.parametrize("fallback", ["refuse", "jit"])
def test_a_hub_that_cannot_be_reached(fallback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    import compile.hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(compile.hub, "_FIRST_PAUSE_S", 0.01)
    assert_refused_or_survived(
        options("someone/artifacts", fallback=fallback),
        "registry someone/artifacts: listing someone/artifacts: cannot be reached: ",
    )


def test_what_does_not_load_is_compiled_just_in_time(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are as published and the machine fits, and yet (a disk full while unpacking)."""
    attached = []

    def full(path: Path, module: torch.nn.Module) -> PackagedGraph:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("compile.inductor.PackagedGraph", full)
    monkeypatch.setattr(JustInTime, "attach", lambda self, backend: attached.append(self))
    told = options(copy, fallback="jit")
    graphs = choose(told)
    create_backend(told, graphs)
    assert len(attached) == 1
    assert "does not load: [Errno 28] No space left on device" in graphs.description

    refusing = options(copy)
    with pytest.raises(ArtifactError, match=r"does not load: .*No space left"):
        create_backend(refusing, choose(refusing))


def test_a_compile_cache_that_is_absent_is_refused_or_done_without(
    registry: Path, eager: Any
) -> None:
    graphs = choose(options(registry, load="cache"))
    with pytest.raises(ArtifactError, match=r"torch-cache\.bin: the artifact has none"):
        graphs.attach(eager)
    surviving = choose(options(registry, load="cache", fallback="jit"))
    surviving._load_bundle(registry)
    assert surviving.description.startswith("compiled just in time: torch-cache.bin: ")


# The command.


def test_verify_says_what_is_whole_and_where_it_runs(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = open_registry(str(copy)).entries()
    assert main(["verify", str(copy)]) == 0
    assert f"{entry.tag}: whole; runs here" in capsys.readouterr().out
    monkeypatch.setattr(
        CpuExporter, "environment", lambda self: {"torch": Fact("2.99.0"), "machine": Fact("x")}
    )
    assert main(["verify", str(copy), entry.tag]) == 0
    assert "not for this machine: cpu_isa: " in capsys.readouterr().out
    spoil_graph(copy)
    assert main(["verify", str(copy)]) == 1
    assert f"{entry.tag}: BROKEN: " in capsys.readouterr().out


def test_list_show_and_prune(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = open_registry(str(copy))
    (entry,) = registry.entries()
    manifest = registry.manifest(entry)
    newer = copy.parent / "newer"
    shutil.copytree(copy / entry.tag, newer)
    edited = manifest.model_copy(
        update={
            "created": "2999-01-01",
            "environment": manifest.environment | {"torch": Fact("2.99.0")},
        }
    )
    changed = edited.model_copy(update={"fingerprint": fingerprint(*edited.causes())})
    (newer / MANIFEST).write_text(changed.dump(), encoding="utf-8")
    assert main(["publish", str(copy), str(newer)]) == 0
    assert main(["list", str(copy)]) == 0
    assert entry.tag in (out := capsys.readouterr().out)
    assert changed.tag in out
    assert main(["show", str(copy), entry.tag]) == 0
    out = capsys.readouterr().out
    assert f"torch (equal): {torch.__version__}" in out
    assert f"fingerprint: {manifest.fingerprint}" in out
    assert main(["prune", str(copy), "--dry-run"]) == 0
    assert f"would remove {entry.tag}" in capsys.readouterr().out
    assert len(registry.entries()) == 2
    assert main(["prune", str(copy)]) == 0
    assert [one.tag for one in registry.entries()] == [changed.tag]
