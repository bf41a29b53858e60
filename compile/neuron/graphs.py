"""Graphs that optimum-neuron compiled: what they were compiled for, and loading them one by one.

Shared by the exporter, which runs each once, and the Neuron backend. The Neuron libraries are
imported inside functions: reading what an artifact says needs none of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile.exporters.base import Component

GRAPH_FILE = "model.neuron"
# The UNet first: while it is loaded, host memory must hold it twice.
COMPONENTS: tuple[Component, ...] = (
    "unet",
    "text_encoder",
    "text_encoder_2",
    "vae_encoder",
    "vae_decoder",
)
# Cores that have the same instruction set, by kind of instance.
TARGETS = {"inf2": "trn1", "trn1": "trn1", "trn1n": "trn1", "trn2": "trn2"}


class NeuronGraphError(ValueError):
    """Graphs that cannot be used here; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class CompiledPart:
    """What one graph was compiled for, from its ``config.json``.

    Attributes:
        component: which part of the model.
        config: the model part's own configuration.
        batch: rows.
        height, width: of its input: pixels for the VAE's encoder, latent cells for UNet and
            decoder, ``None`` for text.
        tokens: length of text, ``None`` for the VAE.
        compiler_version: of neuronx-cc.
        target: kind of core, a value of ``TARGETS``.
        inlined: the weights are inside the graph.
    """

    component: Component
    config: Mapping[str, Any]
    batch: int
    height: int | None
    width: int | None
    tokens: int | None
    compiler_version: str
    target: str
    inlined: bool


def present(folder: Path) -> tuple[Component, ...]:
    """Components that have a graph in ``folder``, in the order in which they are best loaded."""
    return tuple(name for name in COMPONENTS if (folder / name / GRAPH_FILE).is_file())


def read_part(folder: Path, component: Component) -> CompiledPart:
    """What one graph says of itself.

    Raises:
        NeuronGraphError: no such graph, or it is not one static graph for one core.
    """
    where = f"{component}/config.json"
    if not (folder / component / GRAPH_FILE).is_file():
        raise NeuronGraphError(f"{component}/{GRAPH_FILE}: missing in {folder}")
    config = read_json(folder, where)
    told = config.pop("neuron", None)
    if not isinstance(told, dict):
        raise NeuronGraphError(f"{where}: neuron: missing; not written by optimum-neuron")
    if told.get("tensor_parallel_size", 1) != 1 or told.get("dynamic_batch_size"):
        raise NeuronGraphError(
            f"{where}: neuron: one static graph for one core needed, got tensor_parallel_size"
            f" {told.get('tensor_parallel_size')}, dynamic_batch_size"
            f" {told.get('dynamic_batch_size')}"
        )
    try:
        return CompiledPart(
            component=component,
            config=config,
            batch=int(told["static_batch_size"]),
            height=told.get("static_height"),
            width=told.get("static_width"),
            tokens=told.get("static_sequence_length"),
            compiler_version=str(told["compiler_version"]),
            target=TARGETS[told["instance_type"]],
            inlined=bool(told["inline_weights_to_neff"]),
        )
    except KeyError as error:
        raise NeuronGraphError(f"{where}: neuron: {error.args[0]}: missing or unknown") from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of an artifact.

    Raises:
        NeuronGraphError: it cannot be read.
    """
    try:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NeuronGraphError(f"{name}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise NeuronGraphError(f"{name}: a JSON object needed")
    return data


def load_graphs(folder: Path, components: Sequence[Component], cores: int) -> dict[Component, Any]:
    """Load graphs onto the process' Neuron cores.

    With one core everything is there. With two the UNet is on both, each of which runs half of a
    batch twice as large; the rest is on the first.

    Args:
        folder: artifact in optimum-neuron's layout.
        components: which graphs.
        cores: 1 or 2.

    Returns:
        TorchScript modules by component, called with positional tensors.

    Raises:
        NeuronGraphError: a graph is missing, or was compiled for something else.
    """
    from optimum.neuron import NeuronStableDiffusionPipeline

    parts = [read_part(folder, name) for name in components]
    paths = {f"{name}_path": folder / name / GRAPH_FILE for name in components}
    # optimum-neuron's own from_pretrained takes two cores for every pipeline, whatever it is told.
    loaded = NeuronStableDiffusionPipeline.load_model(
        data_parallel_mode="none" if cores == 1 else "unet",
        tensor_parallel_size=1,
        dynamic_batch_size=False,
        to_neuron=not all(part.inlined for part in parts),
        **paths,
    )
    return {name: loaded[name] for name in components}


def wrap(folder: Path, graph: Any, component: Component) -> Any:
    """A loaded graph as optimum-neuron's runtime class, which is called like the model's part."""
    from optimum.neuron import modeling_diffusion as runtime

    config, neuron_config = configs(folder, component)
    classes = {
        "text_encoder": runtime.NeuronModelTextEncoder,
        "text_encoder_2": runtime.NeuronModelTextEncoder,
        "unet": runtime.NeuronModelUnet,
        "vae_encoder": runtime.NeuronModelVaeEncoder,
        "vae_decoder": runtime.NeuronModelVaeDecoder,
    }
    return classes[component](graph, None, config, neuron_config)


def configs(folder: Path, component: Component) -> tuple[Any, Any]:
    """A part's configuration, and what optimum-neuron makes of its ``neuron`` section."""
    from optimum.neuron import NeuronStableDiffusionPipeline
    from optimum.neuron.utils import DiffusersPretrainedConfig

    config = DiffusersPretrainedConfig.from_json_file(folder / component / "config.json")
    return config, NeuronStableDiffusionPipeline._neuron_config_init(config)
