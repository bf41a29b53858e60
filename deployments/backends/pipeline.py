"""A backend over diffusers' own modules on one torch device; CPU and CUDA are its two settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deployments.backends.base import BackendFacts, DenoiseBatch, TextEmbedding
from deployments.model import Pipeline


class PipelineBackend:
    """Runs a loaded Stable Diffusion 1.x, 2.x or XL pipeline part by part.

    Args:
        pipe: loaded pipeline; moved to ``device`` and cast to ``dtype`` here.
        fixed_rows: always run this many rows, as a statically compiled graph would.
        decode_batch: most latents per VAE call.
        overlap_decode: whether decoding may run beside denoising.
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
        )

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures that the UNet was made for."""
        cells = self.pipe.unet.config.sample_size
        height, width = cells if isinstance(cells, list | tuple) else (cells, cells)
        return height * self.facts.scale_factor, width * self.facts.scale_factor

    @torch.inference_mode()
    def encode_prompt(self, text: str) -> TextEmbedding:
        """Encode one text with the pipeline's own ``encode_prompt``."""
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
        mean, std = self._latent_statistics(latent)
        if mean is not None and std is not None:
            latent = (latent - mean) * vae.config.scaling_factor / std
        else:
            latent = vae.config.scaling_factor * latent
        scaled: torch.Tensor = latent
        return scaled

    @torch.inference_mode()
    def denoise(self, batch: DenoiseBatch) -> torch.Tensor:
        """One UNet call over all rows."""
        added = None
        if self.facts.size_conditioned:
            added = {"text_embeds": batch.pooled, "time_ids": batch.time_ids}
        out: torch.Tensor = self.pipe.unet(
            batch.latents,
            batch.timesteps,
            encoder_hidden_states=batch.hidden,
            timestep_cond=batch.timestep_cond,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return out

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> Sequence[NDArray[np.uint8] | None]:
        """One VAE call; rounding as diffusers' image processor does it."""
        vae = self.pipe.vae
        latents = latents.to(vae.dtype)
        mean, std = self._latent_statistics(latents)
        if mean is not None and std is not None:
            latents = latents * std / vae.config.scaling_factor + mean
        else:
            latents = latents / vae.config.scaling_factor
        pixels = vae.decode(latents, return_dict=False)[0]
        finite = torch.isfinite(pixels).flatten(1).all(1).tolist()
        arrays = self.pipe.image_processor.postprocess(pixels.nan_to_num(), output_type="np")
        return [
            (array * 255).round().astype(np.uint8) if good else None
            for array, good in zip(arrays, finite, strict=True)
        ]

    def _latent_statistics(
        self, like: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        config = self.pipe.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return None, None
        view = (1, -1, 1, 1)
        return (
            torch.tensor(mean, device=like.device, dtype=like.dtype).view(view),
            torch.tensor(std, device=like.device, dtype=like.dtype).view(view),
        )
