"""Adapters into a loaded pipeline, of which each row of a batch may choose one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from compile.lora import Lora, LoraError, find, fuse, load
from deployments.lora.layers import LoraLayer, Pair, Selection
from deployments.model import Pipeline
from deployments.model_info import ModelError
from deployments.options import LoraOptions

_NETWORKS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class Adapters:
    """What a loaded pipeline offers.

    Attributes:
        names: adapters that a row may choose, in the order of their index (from 1).
        fused: the adapter that is part of every picture, if one is.
        unet: chooses for the UNet's rows.
        text: chooses for the text encoders' rows.
    """

    names: tuple[str, ...] = ()
    fused: str | None = None
    unet: Selection = field(default_factory=Selection)
    text: Selection = field(default_factory=Selection)

    def number(self, name: str) -> int:
        """The adapter's index, from 1."""
        return self.names.index(name) + 1


def add_adapters(pipe: Pipeline, loras: Sequence[LoraOptions], fused: bool) -> Adapters:
    """Load adapters into a pipeline that is still on the CPU.

    Args:
        pipe: changed in place.
        loras: what to load.
        fused: add the one adapter's product to the weights: no cost a step, and no choice.

    Raises:
        ModelError: an adapter cannot be read or does not go with the model.
    """
    if not loras:
        return Adapters()
    if fused:
        (lora,) = loras
        _load(pipe, lora, partial(fuse, scale=lora.scale))
        return Adapters(fused=lora.name)
    adapters = Adapters(tuple(lora.name for lora in loras))
    present = {name: getattr(pipe, name, None) for name in _NETWORKS}
    networks: dict[str, Any] = {name: one for name, one in present.items() if one is not None}
    # One after the other: peft would keep them apart, but warns of it.
    parts: list[dict[str, dict[str, Pair]]] = []
    for lora in loras:
        _load(pipe, lora)
        parts.append({name: _pairs(network, lora) for name, network in networks.items()})
        pipe.unload_lora_weights()
    for name, network in networks.items():
        selection = adapters.unet if name == "unet" else adapters.text
        layers = {layer for part in parts for layer in part[name]}
        for layer in sorted(layers):
            parent, _, child = layer.rpartition(".")
            base = network.get_submodule(layer)
            pairs = [part[name].get(layer) for part in parts]
            setattr(network.get_submodule(parent), child, LoraLayer(base, pairs, selection))
    return adapters


def _load(pipe: Pipeline, lora: LoraOptions, how: Callable[[Any, Path, str], None] = load) -> None:
    try:
        # Asked once: a replica says why it waits before it tries again (``deployments.patience``).
        how(pipe, find(described(lora), attempts=1), lora.name)
    except LoraError as error:
        raise ModelError(f"loras.{lora.name}: {error}") from error


def described(lora: LoraOptions) -> Lora:
    """The adapter as ``compile.lora`` knows it."""
    return Lora(lora.source, lora.revision, lora.weight_name, lora.scale)


def _pairs(network: Any, lora: LoraOptions) -> dict[str, Pair]:
    """What peft has put into a network, by the layer's name."""
    from peft.tuners.lora.layer import LoraLayer as PeftLayer

    return {
        name: _pair(name, layer, lora)
        for name, layer in network.named_modules()
        if isinstance(layer, PeftLayer)
    }


def _pair(name: str, layer: Any, lora: LoraOptions) -> Pair:
    if lora.name not in layer.lora_A:
        raise _unsupported(lora, name, "changes token embeddings")
    if lora.name in layer.lora_variant:
        raise _unsupported(lora, name, "is not plain LoRA (DoRA, for example)")
    down, up, base = layer.lora_A[lora.name], layer.lora_B[lora.name], layer.get_base_layer()
    if up.bias is not None:
        raise _unsupported(lora, name, "has a bias")
    if not isinstance(base, nn.Linear | nn.Conv2d) or getattr(base, "groups", 1) != 1:
        raise _unsupported(lora, name, f"changes a {type(base).__name__}")
    scale = lora.scale * layer.scaling[lora.name]
    return Pair(down.weight.detach(), up.weight.detach(), scale)


def _unsupported(lora: LoraOptions, layer: str, what: str) -> ModelError:
    return ModelError(
        f"loras.{lora.name}: its part in {layer} {what}, which rows cannot choose one by one:"
        " serve it alone with fuse_lora: true"
    )
