"""What an exporter implements: one kind of accelerator, one model snapshot, static shapes.

Graphs take and give named tensors, so that one validation pass fits all exporters. The names and
shapes, with ``h`` and ``w`` the picture's size divided by the VAE's scale factor:

``text_encoder``, ``text_encoder_2``
    ``input_ids`` int64 [batch, tokens] → ``hidden`` [batch, tokens, dim] (what the UNet is given:
    for SDXL the last hidden state but one), and ``pooled`` [batch, dim] of SDXL's second encoder.
``unet``
    ``sample`` [batch, channels, h, w], ``timestep`` float32 [batch], ``encoder_hidden_states``
    [batch, tokens, dim]; SDXL also ``text_embeds`` [batch, dim] and ``time_ids`` [batch, 6];
    guidance-distilled ones ``timestep_cond`` [batch, dim] → ``prediction``, shaped as ``sample``.
``vae_decoder``
    ``latents`` [batch, channels, h, w], already divided by the scaling factor → ``pixels``
    [batch, 3, height, width], about -1…1.
``vae_encoder`` (optional)
    ``pixels`` [batch, 3, height, width] → ``moments`` [batch, 2 * channels, h, w].

An exporter may leave out an output that its graphs lack; it may not rename one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch

Accelerator = Literal["cpu", "cuda", "neuron"]
Component = Literal["text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder"]
DType = Literal["float32", "bfloat16", "float16"]
# How the value found where an artifact is loaded must relate to the one it was made with.
#   equal:    the same text
#   at_least: the same or a later version (numbers between dots)
#   superset: every word of it and maybe more (CPU instruction sets)
#   recorded: whatever it is; kept to explain a result
Rule = Literal["equal", "at_least", "superset", "recorded"]


class ExportError(RuntimeError):
    """The model cannot be exported as asked; the message names the field and what to do."""


class CannotRunHereError(RuntimeError):
    """A graph was compiled for a device that this machine lacks; it is published as not validated.

    The message says what is lacking.
    """


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing about the machine or its software that an artifact depends on.

    Attributes:
        value: as text, e.g. ``2.13.0+cpu``.
        rule: how the consumer's value must relate to it.
    """

    value: str
    rule: Rule = "equal"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to compile; validated before any exporter sees it.

    Attributes:
        accelerator: kind of accelerator.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        batches: rows of the UNet graphs, ascending: one graph each. Neuron takes exactly one.
        vae_batch: pictures decoded in one call.
        dtype: weights and activations.
        options: the exporter's own, all of them with their values (defaults filled in by
            ``Exporter.options``), e.g. ``{"auto_cast": "matmul"}``; part of the fingerprint.
    """

    accelerator: Accelerator
    height: int
    width: int
    batches: tuple[int, ...]
    vae_batch: int = 1
    dtype: DType = "float32"
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype (``float32``, ``int64``, …) of a graph's input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """One compiled graph.

    Attributes:
        name: unique in the artifact, e.g. ``unet-8``.
        component: which part of the model.
        batch: rows of the static shape.
        path: the graph's file, relative to the target folder, with ``/``.
        inputs: in the order in which the graph takes them.
        outputs: in the order in which it gives them.
        tolerance: largest error against the eager model with which it is published: the largest
            absolute difference divided by the largest absolute value of the eager output.
    """

    name: str
    component: Component
    batch: int
    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: float


Tensors = Mapping[str, "torch.Tensor"]
# Called as graphs are done: what is done now, and how many of how many.
Progress = Callable[[str, int, int], None]


class Exporter(Protocol):
    """Turns a model folder into graphs for one accelerator.

    A module of this package, ``compile.exporters.<accelerator>``, has ``create() -> Exporter``. It
    imports its libraries inside functions: the CLI lists and verifies artifacts without them.
    Everything in ``target`` when ``export`` returns is published, also files that no graph names
    (configs, a tokenizer): an exporter leaves no temporary files there.
    """

    def options(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """All options with their values, defaults filled in.

        Raises:
            ExportError: an unknown option or a bad value; says which are known.
        """
        ...

    def environment(self) -> Mapping[str, Fact]:
        """What graphs made here depend on: versions, device kind, compiler.

        Called where artifacts are made, and again where they are loaded: both are compared.
        """
        ...

    def export(
        self, snapshot: Path, target: Path, request: ExportRequest, progress: Progress
    ) -> Sequence[ExportedGraph]:
        """Compile every graph of the model.

        Args:
            snapshot: diffusers layout, of exactly one revision, safetensors only; never written to.
            target: empty folder to write to.
            request: what to compile; ``request.options`` are complete.
            progress: for the progress bar.

        Raises:
            ExportError: the model or the request does not suit this accelerator.
        """
        ...

    def run(
        self, snapshot: Path, target: Path, graph: ExportedGraph, inputs: Tensors
    ) -> Mapping[str, torch.Tensor]:
        """Load one graph as a replica would and run it once.

        Args:
            snapshot: as in ``export``; where weights are not in the graph they come from here.
            target: as ``export`` left it.
            graph: which one.
            inputs: on the CPU, by name, shaped and typed as ``graph.inputs`` says.

        Returns:
            Outputs by name, on the CPU.

        Raises:
            CannotRunHereError: this machine has no such device.
        """
        ...
