"""A model's parts as plain modules: named tensors in, tensors out, as the graphs have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compile.exporters.base import Component, DType
from compile.parts import ModelShape

# torch's modules call their parts dynamically; this names what comes out.
Tensors = tuple[torch.Tensor, ...]


class TextEncoder(torch.nn.Module):
    """Token ids to what the UNet is given, and SDXL's pooled text.

    Args:
        module: a CLIP text model of transformers.
        penultimate: give the last hidden state but one, as SDXL wants it.
        pooled: give the projected text too.
    """

    def __init__(self, module: Any, *, penultimate: bool, pooled: bool) -> None:
        super().__init__()
        self.module = module
        self._penultimate = penultimate
        self._pooled = pooled

    def forward(self, input_ids: torch.Tensor) -> Tensors:
        """See the class."""
        out = self.module(input_ids, output_hidden_states=self._penultimate, return_dict=True)
        hidden = out.hidden_states[-2] if self._penultimate else out.last_hidden_state
        return (hidden, out.text_embeds) if self._pooled else (hidden,)


class Denoiser(torch.nn.Module):
    """The UNet; further inputs in the order in which its configuration asks for them.

    Args:
        module: a ``UNet2DConditionModel``.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self._size_conditioned = module.config.addition_embed_type == "text_time"
        self._guidance = module.config.time_cond_proj_dim is not None

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *more: torch.Tensor,
    ) -> Tensors:
        """See the class."""
        rest = list(more)
        added = None
        if self._size_conditioned:
            added = {"text_embeds": rest.pop(0), "time_ids": rest.pop(0)}
        out: Tensors = self.module(
            sample,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            timestep_cond=rest.pop(0) if self._guidance else None,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return out[:1]


class Decoder(torch.nn.Module):
    """The VAE's decoding half.

    Args:
        module: an ``AutoencoderKL``.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.decoder = module.decoder
        self.post_quant_conv = module.post_quant_conv

    def forward(self, latents: torch.Tensor) -> Tensors:
        """See the class."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return (self.decoder(latents),)


class Encoder(torch.nn.Module):
    """The VAE's encoding half.

    Args:
        module: an ``AutoencoderKL``.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.encoder = module.encoder
        self.quant_conv = module.quant_conv

    def forward(self, pixels: torch.Tensor) -> Tensors:
        """See the class."""
        moments = self.encoder(pixels)
        return (moments if self.quant_conv is None else self.quant_conv(moments),)


def wrap(component: Component, part: Any, *, size_conditioned: bool) -> torch.nn.Module:
    """A loaded part of a pipeline as the plain module that is compiled.

    Args:
        component: which graph.
        part: the pipeline's part: text encoder, UNet or VAE.
        size_conditioned: the model is an SDXL.
    """
    if component == "unet":
        return Denoiser(part)
    if component == "vae_decoder":
        return Decoder(part)
    if component == "vae_encoder":
        return Encoder(part)
    return TextEncoder(part, penultimate=size_conditioned, pooled=component == "text_encoder_2")


def load(folder: Path, component: Component, dtype: DType, device: torch.device) -> torch.nn.Module:
    """A part from its safetensors, wrapped, ready to run.

    Raises:
        OSError: a file is missing or broken.
    """
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    shape = ModelShape(folder)
    name = "vae" if component.startswith("vae") else component
    library = transformers if component.startswith("text") else diffusers
    make: Callable[..., Any] = getattr(library, shape.classes[name]).from_pretrained
    # transformers and diffusers disagree on the name of the dtype argument, and among versions.
    part = make(str(folder / name), use_safetensors=True, local_files_only=True)
    module = wrap(component, part, size_conditioned=shape.size_conditioned)
    module.to(device=device, dtype=getattr(torch, dtype))
    return module.eval().requires_grad_(False)
