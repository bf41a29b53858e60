"""Compiled graphs in the place of a pipeline's eager parts.

Each part's call is replaced on the loaded pipeline itself: what was compiled for runs as graphs
of static batches, idle rows padded; other picture sizes run eagerly, on the same weights.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from compile.exporters.base import Component, DType, ExportRequest, TensorSpec
from compile.manifest import ArtifactError
from compile.modules import wrap
from compile.parts import ModelShape
from compile.registry import Located
from deployments.backends.pipeline import PipelineBackend
from deployments.startup import stage

logger = logging.getLogger(__name__)

Graph = Callable[..., tuple[torch.Tensor, ...]]
# diffusers and transformers are untyped; this names what their calls take and give.
Anything = Any


class GraphSource(Protocol):
    """Where a replica's compiled graphs come from.

    Attributes:
        description: for people, e.g. ``artifact cpu-64x64-…``.
        batches: rows of the UNet's graphs, ascending.
        dtype: of the weights that they want; ``None``: whatever the backend has.
    """

    description: str
    batches: tuple[int, ...]
    dtype: DType | None

    def attach(self, backend: PipelineBackend) -> None:
        """Put the graphs in place and run each once.

        Raises:
            ArtifactError: they do not suit the loaded model.
        """
        ...


class Packaged:
    """Graphs of an artifact; see ``GraphSource``.

    Attributes:
        located: the artifact.

    Args:
        located: the artifact.
        otherwise: what to do when its graphs do not load; ``None``: fail.
    """

    def __init__(self, located: Located, otherwise: JustInTime | None) -> None:
        self.located = located
        self.batches = located.manifest.batches
        self.dtype: DType | None = located.manifest.dtype
        self.description = f"artifact {located.entry.tag} at {located.entry.revision}"
        self._otherwise = otherwise

    def attach(self, backend: PipelineBackend) -> None:
        """See ``GraphSource``."""
        try:
            parts = self._load(backend)
        except (ArtifactError, RuntimeError, OSError) as error:
            message = f"artifact {self.located.entry.tag} does not load: {error}"
            if self._otherwise is None:
                raise ArtifactError(message) from error
            logger.warning("compiling just in time: %s", message)
            self._otherwise.attach(backend)
            self.description = f"{self._otherwise.description}{message}"
        else:
            _install(backend, parts)

    def _load(self, backend: PipelineBackend) -> dict[Component, Part]:
        from compile.inductor import PackagedGraph

        parts: dict[Component, Part] = {}
        with stage("artifact"):
            for record in self.located.manifest.graphs:
                graph = record.graph
                module = _wrapped(backend, graph.component)
                loaded = PackagedGraph(self.located.folder / graph.path, module)
                part = parts.setdefault(graph.component, Part(graph.inputs))
                part.graphs[graph.batch] = loaded
        with stage("warm_up"):
            _warm_up(backend, parts)
        return parts


class JustInTime:
    """Graphs that torch.compile makes at every start; see ``GraphSource``.

    Args:
        request: sizes and batches; its dtype is the backend's own.
        why: there is no artifact, for people.
        bundle: folder of an artifact whose compile cache is loaded first.
        strict: fail when that does not load; else compile from scratch.
    """

    def __init__(
        self, request: ExportRequest, why: str, bundle: Path | None = None, *, strict: bool = True
    ) -> None:
        self._request = request
        self._bundle = bundle
        self._strict = strict
        self.batches = request.batches
        self.dtype: DType | None = None
        self.description = f"compiled just in time: {why}"

    def attach(self, backend: PipelineBackend) -> None:
        """See ``GraphSource``."""
        from compile.jit import compile_module

        if self._bundle is not None:
            with stage("artifact"):
                self._load_bundle(self._bundle)
        dtype: Any = str(backend.facts.dtype).removeprefix("torch.")
        request = dataclasses.replace(self._request, dtype=_dtype(dtype))
        parts: dict[Component, Part] = {}
        for one in ModelShape(Path(backend.pipe.name_or_path)).parts(request):
            part = parts.setdefault(one.component, Part(one.inputs))
            if not part.graphs:
                compiled = compile_module(_wrapped(backend, one.component))
            # One function for all batches: it makes a graph of each.
            part.graphs[one.batch] = compiled
        with stage("compile"):
            _warm_up(backend, parts)
        _install(backend, parts)

    def _load_bundle(self, folder: Path) -> None:
        from compile.cache_bundle import load_bundle

        try:
            load_bundle(folder)
        except ArtifactError as error:
            if self._strict:
                raise
            logger.warning("compiling from scratch: %s", error)
            self.description = f"compiled just in time: {error}"


class Part:
    """One part's graphs, by batch.

    Args:
        inputs: what any of them takes; the batch apart.
    """

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self.inputs = inputs
        self.graphs: dict[int, Graph] = {}

    def fits(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the graphs were compiled for tensors like these."""
        return len(tensors) == len(self.inputs) and all(
            tuple(tensor.shape[1:]) == spec.shape[1:] and _name(tensor.dtype) == spec.dtype
            for tensor, spec in zip(tensors, self.inputs, strict=True)
        )

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run all rows: in the smallest batch that holds them, or the largest several times."""
        rows, done = tensors[0].shape[0], 0
        pieces = []
        while done < rows:
            batch = self._batch(rows - done)
            taken = min(batch, rows - done)
            given = [_fill(x[done : done + taken], batch) for x in tensors]
            pieces.append([out[:taken] for out in self.graphs[batch](*given)])
            done += taken
        return tuple(
            torch.cat(outs) if len(outs) > 1 else outs[0] for outs in zip(*pieces, strict=True)
        )

    def _batch(self, rows: int) -> int:
        return min((size for size in self.graphs if size >= rows), default=max(self.graphs))


class EncodedText(tuple[torch.Tensor, ...]):
    """What the pipelines read of a text encoder's output: ``[0]``, and ``hidden_states[-2]``."""

    hidden_states: tuple[torch.Tensor, ...]


def _fill(x: torch.Tensor, batch: int) -> torch.Tensor:
    """Rows of zeros up to ``batch``; laid out and aligned as compiled code wants it."""
    missing = batch - x.shape[0]
    if missing:
        return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]).contiguous()
    return (
        x.contiguous()
        if x.storage_offset() == 0
        else x.clone(memory_format=torch.contiguous_format)
    )


def _wrapped(backend: PipelineBackend, component: Component) -> torch.nn.Module:
    name = "vae" if component.startswith("vae") else component
    # The same weights and parts under another roof: what is compiled must not meet, when it is
    # traced for the next batch, the call that is put in its place.
    part = copy.copy(getattr(backend.pipe, name))
    return wrap(
        component,
        part,
        size_conditioned=backend.facts.size_conditioned,
    )


@torch.inference_mode()
def _warm_up(backend: PipelineBackend, parts: dict[Component, Part]) -> None:
    """One real pass of every graph, on tensors like the engine's.

    (torch.compile makes another graph for tensors that were made outside inference mode.)
    """
    for part in parts.values():
        for batch, graph in part.graphs.items():
            zeros = [
                torch.zeros(
                    (batch, *one.shape[1:]),
                    dtype=getattr(torch, one.dtype),
                    device=backend.device,
                )
                for one in part.inputs
            ]
            # Copying waits for a device that works asynchronously, and hears of its errors.
            graph(*zeros)[0].cpu()


def _install(backend: PipelineBackend, parts: dict[Component, Part]) -> None:
    pipe = backend.pipe
    for component, part in parts.items():
        if component == "unet":
            pipe.unet.forward = _denoising(part, pipe.unet.forward)
        elif component == "vae_decoder":
            pipe.vae.decode = _decoding(part, pipe.vae.decode)
            room = min(backend.facts.decode_batch, max(part.graphs))
            backend.facts = dataclasses.replace(backend.facts, decode_batch=room)
        else:
            encoder = getattr(pipe, component)
            encoder.forward = _encoding(part, encoder.forward)


def _denoising(part: Part, eager: Anything) -> Anything:
    """``UNet2DConditionModel.forward``, as the backend calls it."""

    def forward(
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        **more: Anything,
    ) -> Anything:
        added = added_cond_kwargs or {}
        extra = (added.get("text_embeds"), added.get("time_ids"), timestep_cond)
        tensors = [sample, timestep.float(), encoder_hidden_states]
        tensors += [x for x in extra if x is not None]
        if more == {"return_dict": False} and part.fits(tensors):
            return part(*tensors)
        return eager(
            sample,
            timestep,
            encoder_hidden_states,
            timestep_cond=timestep_cond,
            added_cond_kwargs=added_cond_kwargs,
            **more,
        )

    return forward


def _decoding(part: Part, eager: Anything) -> Anything:
    """``AutoencoderKL.decode``, as the backend calls it."""

    def decode(z: torch.Tensor, return_dict: bool = True, **more: Anything) -> Anything:
        if not return_dict and not more and part.fits([z]):
            return part(z)
        return eager(z, return_dict=return_dict, **more)

    return decode


def _encoding(part: Part, eager: Anything) -> Anything:
    """A text encoder's ``forward``, as the pipelines' ``encode_prompt`` calls it."""

    def forward(
        input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **more: Anything
    ) -> Anything:
        if attention_mask is not None or not part.fits([input_ids]):
            return eager(input_ids, attention_mask=attention_mask, **more)
        hidden, *pooled = part(input_ids)
        # SDXL's second encoder gives the pooled text first; what counts is its dimensions.
        encoded = EncodedText((*pooled, hidden))
        encoded.hidden_states = (hidden, hidden)
        return encoded

    return forward


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> DType:
    names: dict[str, DType] = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}
    return names[name]
