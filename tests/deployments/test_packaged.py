"""Graphs of fixed batches in the place of a pipeline's parts: padded, split, passed by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import compile.jit
from compile.exporters.base import ExportRequest
from compile.modules import load, wrap
from compile.parts import ModelShape
from deployments.backends.packaged import JustInTime, Part, _install
from deployments.backends.pipeline import PipelineBackend
from deployments.graphs import powers_of_two
from deployments.model import load_pipeline
from tests.deployments.harness import Bench, ask, solo
from tests.deployments.tiny_models import KINDS, Kind

ModelFolder = Callable[[Kind], Path]


class Static:
    """A module that, as a compiled graph, takes one batch and nothing else."""

    def __init__(self, module: torch.nn.Module, batch: int) -> None:
        self.module, self.batch, self.calls = module, batch, 0

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert all(x.shape[0] == self.batch and x.is_contiguous() for x in inputs)
        self.calls += 1
        out: tuple[torch.Tensor, ...] = self.module(*inputs)
        return out


def fresh_backend(folder: Path) -> PipelineBackend:
    return PipelineBackend(
        load_pipeline(str(folder), None),
        device=torch.device("cpu"),
        dtype=torch.float32,
        fixed_rows=None,
        decode_batch=4,
        overlap_decode=False,
    )


def with_static_graphs(
    folder: Path, batches: tuple[int, ...], vae_batch: int = 1
) -> tuple[PipelineBackend, dict[str, Static]]:
    """A backend whose parts run as graphs of these batches, and the graphs by name."""
    backend = fresh_backend(folder)
    request = ExportRequest("cpu", 16, 16, batches, vae_batch)
    parts: Any = {}
    graphs = {}
    for one in ModelShape(folder).parts(request):
        # Modules of their own: the pipeline's are about to be replaced.
        module = load(folder, one.component, "float32", torch.device("cpu"))
        graphs[one.name] = Static(module, one.batch)
        parts.setdefault(one.component, Part(one.inputs)).graphs[one.batch] = graphs[one.name]
    _install(backend, parts)
    return backend, graphs


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_paints_the_same(
    kind: Kind, model_folder: ModelFolder, make_backend: Callable[[Kind], Any]
) -> None:
    backend, graphs = with_static_graphs(model_folder(kind), (2,))
    request = ask(prompt="a dog", negative_prompt="a cat", seed=3, guidance_scale=4.0)
    assert solo(backend, request)[1] == solo(make_backend(kind), request)[1]
    # PNDM takes one step more than it is told.
    assert graphs["unet-2"].calls == request.num_inference_steps + (kind in ("sd1", "inpaint"))
    assert graphs["vae_decoder-1"].calls == 1
    texts = [graph for name, graph in graphs.items() if name.startswith("text_encoder")]
    assert len(texts) == (2 if kind in ("sdxl", "xl_inpaint") else 1)
    # A guidance-distilled model is not given the negative prompt.
    assert all(text.calls == (1 if kind == "lcm" else 2) for text in texts)


def test_each_step_takes_the_smallest_batch_that_holds_it(model_folder: ModelFolder) -> None:
    backend, graphs = with_static_graphs(model_folder("sd1"), (2, 4))
    solo(backend, ask(num_inference_steps=3, guidance_scale=1.0))  # one row
    assert (graphs["unet-2"].calls, graphs["unet-4"].calls) == (4, 0)
    bench = Bench(backend, max_rows=4)
    for seed in range(2):
        bench.submit(ask(num_inference_steps=3, guidance_scale=2.0, seed=seed))
    bench.run()
    assert (graphs["unet-2"].calls, graphs["unet-4"].calls) == (4, 4)


def test_more_rows_than_the_largest_batch_are_several_calls(
    model_folder: ModelFolder, make_backend: Callable[[Kind], Any]
) -> None:
    backend, graphs = with_static_graphs(model_folder("sd1"), (2,), vae_batch=3)
    requests = [ask(seed=seed, guidance_scale=2.0) for seed in range(4)]
    bench = Bench(backend, max_rows=8)
    for request in requests:
        bench.submit(request)
    bench.run()
    for request in requests:
        assert bench.picture(request) == solo(make_backend("sd1"), request)[1]
    assert graphs["unet-2"].calls == 4 * 5
    # Decoded at most three at a time, though the backend would have taken four.
    assert backend.facts.decode_batch == 3
    assert graphs["vae_decoder-3"].calls == 2


def test_what_is_not_compiled_runs_eagerly(
    model_folder: ModelFolder, make_backend: Callable[[Kind], Any]
) -> None:
    backend, graphs = with_static_graphs(model_folder("sd1"), (2,))
    request = ask(width=24, height=16)
    assert solo(backend, request)[1] == solo(make_backend("sd1"), request)[1]
    assert graphs["unet-2"].calls == graphs["vae_decoder-1"].calls == 0
    assert graphs["text_encoder-1"].calls == 2
    # Calls that the backend never makes get what the eager part gives.
    latents = torch.zeros(1, 4, 8, 8)
    assert backend.pipe.vae.decode(latents).sample.shape == (1, 3, 16, 16)
    ids = torch.zeros(1, 16, dtype=torch.int64)
    masked = backend.pipe.text_encoder(ids, attention_mask=torch.ones_like(ids))
    assert masked.last_hidden_state.shape == (1, 16, 16)


def test_just_in_time_graphs_paint_the_same(
    model_folder: ModelFolder,
    make_backend: Callable[[Kind], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced whole and per batch as for the real compiler, whose code takes a minute to build."""
    shapes = []

    def count(program: Any, inputs: Any) -> Any:
        shapes.append([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)][-1])
        return program.forward

    monkeypatch.setattr(
        compile.jit.torch, "compile", functools.partial(torch.compile, backend=count)
    )
    source = JustInTime(ExportRequest("cpu", 16, 16, (2, 4)), "for want of an artifact")
    assert source.description == "compiled just in time: for want of an artifact"
    backend = fresh_backend(model_folder("sd1"))
    source.attach(backend)
    assert len(shapes) == 4  # text encoder, two UNets, decoder: each compiled before it is ready
    bench = Bench(backend, max_rows=4)
    requests = [ask(seed=seed, guidance_scale=2.0) for seed in range(2)]
    for request in requests:
        bench.submit(request)
    bench.run()
    assert len(shapes) == 4
    for request in requests:
        assert bench.picture(request) == solo(make_backend("sd1"), request)[1]


def test_powers_of_two_end_with_the_most_rows() -> None:
    assert powers_of_two(2) == (2,)
    assert powers_of_two(3) == (2, 3)
    assert powers_of_two(16) == (2, 4, 8, 16)
    assert powers_of_two(20) == (2, 4, 8, 16, 20)


def test_the_vae_encoder_gives_its_moments(model_folder: ModelFolder) -> None:
    backend = fresh_backend(model_folder("sd1"))
    pixels = torch.zeros(1, 3, 16, 16)
    encode = wrap("vae_encoder", backend.pipe.vae, size_conditioned=False)
    (moments,) = encode(pixels)
    assert torch.equal(moments, backend.pipe.vae.encode(pixels).latent_dist.parameters)
