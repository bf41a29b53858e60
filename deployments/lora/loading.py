"""Adapters into a loaded pipeline: diffusers and peft read the files, whatever their dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from deployments.lora.files import weights_file
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


def add_adapters(pipe: Pipeline, loras: Sequence[LoraOptions], fuse: bool) -> Adapters:
    """Load adapters into a pipeline that is still on the CPU.

    Args:
        pipe: changed in place.
        loras: what to load.
        fuse: add the one adapter's product to the weights: no cost a step, and no choice.

    Raises:
        ModelError: an adapter cannot be read or does not go with the model.
    """
    if not loras:
        return Adapters()
    for lora in loras:
        _load(pipe, lora)
    if fuse:
        (lora,) = loras
        pipe.fuse_lora(lora_scale=lora.scale, adapter_names=[lora.name])
        pipe.unload_lora_weights()
        return Adapters(fused=lora.name)
    adapters = Adapters(tuple(lora.name for lora in loras))
    for name in _NETWORKS:
        network = getattr(pipe, name, None)
        if network is not None:
            _replace(network, loras, adapters.unet if name == "unet" else adapters.text)
    return adapters


def _load(pipe: Pipeline, lora: LoraOptions) -> None:
    path = weights_file(lora)
    try:
        pipe.load_lora_weights(
            str(path.parent),
            weight_name=path.name,
            adapter_name=lora.name,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelError(
            f"loras.{lora.name}: {path.name} does not go with the model: {first}"
        ) from error
    if not any(lora.name in names for names in pipe.get_list_adapters().values()):
        raise ModelError(
            f"loras.{lora.name}: {path.name} holds no layer of this model's UNet or text encoders"
        )


def _replace(network: Any, loras: Sequence[LoraOptions], selection: Selection) -> None:
    """peft's layers, which apply one adapter to all rows, by ours."""
    from peft.tuners.lora.layer import LoraLayer as PeftLayer

    found = [(name, one) for name, one in network.named_modules() if isinstance(one, PeftLayer)]
    for name, layer in found:
        base = layer.get_base_layer()
        pairs = [_pair(name, base, layer, lora) for lora in loras]
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, LoraLayer(base, pairs, selection))
    if found:
        # What peft remembers of the network no longer holds.
        del network.peft_config
        network._hf_peft_config_loaded = False


def _pair(name: str, base: nn.Module, layer: Any, lora: LoraOptions) -> Pair | None:
    if lora.name in layer.lora_embedding_A:
        raise _unsupported(lora, name, "changes token embeddings")
    if lora.name not in layer.lora_A:
        return None
    if lora.name in layer.lora_variant:
        raise _unsupported(lora, name, "is not plain LoRA (DoRA, for example)")
    down, up = layer.lora_A[lora.name], layer.lora_B[lora.name]
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
