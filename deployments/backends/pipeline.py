"""A backend over diffusers' own modules on one torch device; CPU and CUDA are its two settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deployments.backends.base import BackendFacts, DenoiseBatch, TextEmbedding
from deployments.lora.layers import Selection
from deployments.lora.loading import Adapters
from deployments.model import Pipeline

# Tensors in, one tensor out: what can be compiled.
Call = Callable[..., torch.Tensor]
Tensors = tuple[torch.Tensor | None, ...]
Statistics = tuple[torch.Tensor, torch.Tensor]


class PipelineBackend:
    """Runs a loaded Stable Diffusion 1.x, 2.x or XL pipeline part by part.

    Args:
        pipe: loaded pipeline; moved to ``device`` and cast to ``dtype`` here.
        fixed_rows: always run this many rows, as a statically compiled graph would.
        decode_batch: most latents per VAE call.
        overlap_decode: whether decoding may run beside denoising.
        adapters: what was loaded into the pipeline beside the model.
    """

    def __init__(
        self,
        pipe: Pipeline,
        *,
        device: torch.device,
        dtype: torch.dtype,
        fixed_rows: int | None,
        decode_batch: int,
        overlap_decode: bool,
        adapters: Adapters | None = None,
    ) -> None:
        # transformers loads in the dtype its config names, diffusers in float32: make them one.
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.to(device=device).requires_grad_(False)
                if any(p.is_floating_point() and p.dtype != dtype for p in part.parameters()):
                    part.to(dtype=dtype)
        self.pipe: Any = pipe
        self.device = device
        unet, channels = self.pipe.unet.config, self.pipe.vae.config.latent_channels
        size_conditioned = unet.addition_embed_type == "text_time"
        # SDXL's VAE overflows in half precision. Cast once: encoding and decoding share it and run
        # in two threads.
        if size_conditioned and dtype == torch.float16 and pipe.vae.config.force_upcast:
            pipe.vae.to(torch.float32)
        self.adapters = adapters or Adapters()
        self._statistics = _latent_statistics(pipe.vae)
        self.predict = _unet_call(pipe.unet, size_conditioned, self.adapters.unet)
        self.to_pixels = _decoder_call(pipe.vae, self._statistics)
        self.facts = BackendFacts(
            device=str(device),
            dtype=dtype,
            latent_channels=channels,
            scale_factor=self.pipe.vae_scale_factor,
            scheduler=self.pipe.scheduler,
            guidance_embedding_dim=unet.time_cond_proj_dim,
            size_conditioned=size_conditioned,
            fixed_rows=fixed_rows,
            decode_batch=decode_batch,
            overlap_decode=overlap_decode,
            zero_empty_negative=bool(self.pipe.config.get("force_zeros_for_empty_prompt", False)),
            mask_conditioned=unet.in_channels != channels,
            loras=self.adapters.names,
            fused_lora=self.adapters.fused,
        )

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures that the UNet was made for."""
        cells = self.pipe.unet.config.sample_size
        height, width = cells if isinstance(cells, list | tuple) else (cells, cells)
        return height * self.facts.scale_factor, width * self.facts.scale_factor

    @torch.inference_mode()
    def encode_prompt(self, text: str, lora: str | None = None) -> TextEmbedding:
        """Encode one text with the pipeline's own ``encode_prompt``."""
        self.adapters.text.index = (
            None if lora is None else torch.tensor([self.adapters.number(lora)], device=self.device)
        )
        truncated = any(
            len(tokenizer(text, truncation=False, verbose=False).input_ids)
            > tokenizer.model_max_length
            for tokenizer in (self.pipe.tokenizer, getattr(self.pipe, "tokenizer_2", None))
            if tokenizer is not None
        )
        encoded = self.pipe.encode_prompt(
            prompt=text,
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        pooled = encoded[2] if self.facts.size_conditioned else None
        return TextEmbedding(encoded[0], pooled, truncated)

    @torch.inference_mode()
    def encode_image(
        self,
        rgb: NDArray[np.uint8],
        generator: torch.Generator,
        blank: NDArray[np.bool_] | None = None,
    ) -> torch.Tensor:
        """Sample the VAE's posterior as diffusers' pipelines for images do."""
        vae = self.pipe.vae
        pixels = self.pipe.image_processor.preprocess(Image.fromarray(rgb))
        if blank is not None:
            pixels = pixels * torch.from_numpy(~blank)
        pixels = pixels.to(device=self.device, dtype=self.facts.dtype).to(vae.dtype)
        latent = vae.encode(pixels).latent_dist.sample(generator).to(self.facts.dtype)
        if self._statistics is not None:
            mean, std = (x.to(latent.dtype) for x in self._statistics)
            latent = (latent - mean) * vae.config.scaling_factor / std
        else:
            latent = vae.config.scaling_factor * latent
        scaled: torch.Tensor = latent
        return scaled

    @torch.inference_mode()
    def denoise(self, batch: DenoiseBatch) -> torch.Tensor:
        """One UNet call over all rows."""
        return self.predict(*unet_inputs(batch))

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> Sequence[NDArray[np.uint8] | None]:
        """One VAE call; rounding as diffusers' image processor does it."""
        pixels = self.decode_latents(latents.to(self.pipe.vae.dtype))
        finite = torch.isfinite(pixels).flatten(1).all(1)
        shown = self.pipe.image_processor.postprocess(pixels.nan_to_num(), output_type="pt")
        # Rounded on the device: a quarter of the bytes to copy, and less for the host to do.
        levels = (shown.permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8)
        arrays = levels.cpu().numpy()
        return [
            array if good else None for array, good in zip(arrays, finite.tolist(), strict=True)
        ]

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """``[n, channels, h, w]`` latents to ``[n, 3, height, width]``, about -1 to 1."""
        return self.to_pixels(latents)


def unet_inputs(batch: DenoiseBatch) -> Tensors:
    """A batch as the positional inputs of ``PipelineBackend.predict``."""
    return (
        batch.latents,
        batch.timesteps,
        batch.hidden,
        batch.pooled,
        batch.time_ids,
        batch.timestep_cond,
        batch.adapters,
    )


def _unet_call(unet: Any, size_conditioned: bool, selection: Selection) -> Call:
    def predict(
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        hidden: torch.Tensor,
        pooled: torch.Tensor | None,
        time_ids: torch.Tensor | None,
        timestep_cond: torch.Tensor | None,
        adapters: torch.Tensor | None,
    ) -> torch.Tensor:
        selection.index = adapters
        out: torch.Tensor = unet(
            latents,
            timesteps,
            encoder_hidden_states=hidden,
            timestep_cond=timestep_cond,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids}
            if size_conditioned
            else None,
            return_dict=False,
        )[0]
        return out

    return predict


def _decoder_call(vae: Any, statistics: Statistics | None) -> Call:
    """``[n, channels, h, w]`` latents to ``[n, 3, height, width]``, about -1 to 1."""
    factor = vae.config.scaling_factor

    def to_pixels(latents: torch.Tensor) -> torch.Tensor:
        if statistics is not None:
            mean, std = (x.to(latents.dtype) for x in statistics)
            latents = latents * std / factor + mean
        else:
            latents = latents / factor
        pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
        return pixels

    return to_pixels


def _latent_statistics(vae: Any) -> Statistics | None:
    """Mean and deviation of each latent channel, for a VAE that states them."""
    mean = getattr(vae.config, "latents_mean", None)
    std = getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return None
    view = (1, -1, 1, 1)
    return (
        torch.tensor(mean, device=vae.device).view(view),
        torch.tensor(std, device=vae.device).view(view),
    )
