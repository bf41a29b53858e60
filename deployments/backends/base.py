"""The protocol between the engine and an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """One encoded text.

    Attributes:
        hidden: ``[1, tokens, dim]`` in the backend's dtype.
        pooled: ``[1, dim]`` for SDXL, else ``None``.
        truncated: the text was longer than the encoder's window.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None
    truncated: bool


@dataclass(frozen=True, slots=True)
class DenoiseBatch:
    """One UNet call; every tensor has the same number of rows.

    Attributes:
        latents: ``[rows, input channels, height/factor, width/factor]``, already scaled by the
            scheduler; with a mask-conditioned UNet followed by mask and masked picture.
        timesteps: ``[rows]`` float32; each row at its own step.
        hidden: ``[rows, tokens, dim]``.
        pooled: ``[rows, dim]`` for SDXL.
        time_ids: ``[rows, 6]`` for SDXL (original size, crop, target size).
        timestep_cond: ``[rows, dim]`` for guidance-distilled UNets.
        adapters: ``[rows]`` int64, each row's LoRA adapter (0: none); ``None``: no row has any.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    hidden: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None
    timestep_cond: torch.Tensor | None = None
    adapters: torch.Tensor | None = None

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> DenoiseBatch:
        """The batch with ``change`` made to each of its tensors."""
        present = {one.name: getattr(self, one.name) for one in fields(self)}
        changed: dict[str, Any] = {k: change(x) for k, x in present.items() if x is not None}
        return replace(self, **changed)


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What the engine must know of a backend.

    Attributes:
        device: of latents and embeddings, e.g. ``cpu`` or ``cuda:0``.
        dtype: of latents and embeddings.
        latent_channels: channels of a latent.
        scale_factor: pixels per latent cell.
        scheduler: the model's own scheduler, as diffusers loads it.
        guidance_embedding_dim: of a guidance-distilled UNet, else ``None``.
        size_conditioned: SDXL's added conditioning is wanted.
        fixed_rows: the graph runs exactly this many rows (idle ones padded), or ``None``.
        decode_batch: most latents decoded in one call.
        overlap_decode: decode in a thread beside the steps, not between them.
        zero_empty_negative: an absent negative prompt is zeros, not the encoding of "".
        accelerator: where the graphs run, for people, if that is not ``device``.
        sizes: the only picture sizes (width, height) in pixels, or ``None`` for any.
        mask_conditioned: an inpainting UNet, which also sees the mask and the latent of the masked
            picture.
        max_rows: most rows that fit the device, or ``None`` where nobody looked.
        loras: adapters that a request may choose; the k-th (from 1) has index k.
        fused_lora: the adapter that is part of every picture, if one is.
    """

    device: str
    dtype: torch.dtype
    latent_channels: int
    scale_factor: int
    scheduler: Any
    guidance_embedding_dim: int | None
    size_conditioned: bool
    fixed_rows: int | None
    decode_batch: int
    overlap_decode: bool
    zero_empty_negative: bool
    accelerator: str | None = None
    sizes: tuple[tuple[int, int], ...] | None = None
    mask_conditioned: bool = False
    max_rows: int | None = None
    loras: tuple[str, ...] = ()
    fused_lora: str | None = None

    @property
    def input_channels(self) -> int:
        """Channels that the UNet takes."""
        return 2 * self.latent_channels + 1 if self.mask_conditioned else self.latent_channels


class Backend(Protocol):
    """Device code. Called from one thread per method; a raised error means the device is unwell."""

    facts: BackendFacts

    def encode_prompt(self, text: str, lora: str | None = None) -> TextEmbedding:
        """Encode one text, with the text encoders' part of an adapter of ``facts.loras``."""
        ...

    def encode_image(
        self,
        rgb: NDArray[np.uint8],
        generator: torch.Generator,
        blank: NDArray[np.bool_] | None = None,
    ) -> torch.Tensor:
        """``[height, width, 3]`` pixels to a scaled latent ``[1, channels, h, w]``.

        Where ``blank``, ``[height, width]``, is true, middle grey is encoded instead; asked for
        where the UNet is mask-conditioned only.
        """
        ...

    def denoise(self, batch: DenoiseBatch) -> torch.Tensor:
        """Predict noise (or velocity) for every row: ``[rows, channels, h, w]``."""
        ...

    def decode(self, latents: torch.Tensor) -> Sequence[NDArray[np.uint8] | None]:
        """``[n, channels, h, w]`` latents to ``n`` pictures of ``[height, width, 3]``.

        ``None`` in place of a picture whose pixels are not finite.
        """
        ...
