"""Repainting a part of a picture, as diffusers' inpainting pipelines do it.

An ordinary UNet repaints everything; after each step what is to be kept is put back, noised to the
step's level (arXiv:2201.09865). A mask-conditioned UNet sees the mask and the rest of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.backends.base import BackendFacts
from deployments.engine.noising import add_noise
from deployments.messages import ImageRequest


@dataclass(frozen=True, slots=True)
class Kept:
    """What an ordinary UNet must not change.

    Attributes:
        mask: ``[1, 1, h, w]``, 1 where the picture is repainted and 0 where it is kept.
        latents: of the start picture, ``[1, channels, h, w]``.
    """

    mask: torch.Tensor
    latents: torch.Tensor

    def blend(
        self, latents: torch.Tensor, scheduler: Any, noise: torch.Tensor, due: torch.Tensor
    ) -> torch.Tensor:
        """``latents`` with what is kept put back.

        Args:
            latents: after a step, ``[1, channels, h, w]``.
            scheduler: has taken that step.
            noise: what the request started from, ``[1, channels, h, w]``.
            due: the next timestep, ``[1]``; empty after the last.
        """
        kept = add_noise(scheduler, self.latents, noise, due) if len(due) else self.latents
        return (1 - self.mask) * kept + self.mask * latents

    def over(self, clean: torch.Tensor) -> torch.Tensor:
        """Latents without noise, ``[1, channels, h, w]``, with what is kept put back."""
        return (1 - self.mask) * self.latents + self.mask * clean


def read_mask(request: ImageRequest) -> NDArray[np.bool_] | None:
    """``[height, width]``, true where the picture is repainted; ``None`` without a mask."""
    if request.mask is None:
        return None
    mask = np.frombuffer(request.mask, np.uint8).reshape(request.height, request.width)
    return mask >= 128


def to_cells(mask: NDArray[np.bool_], facts: BackendFacts) -> torch.Tensor:
    """The mask by latent cells, ``[1, 1, h, w]``: each cell as its first pixel, as diffusers."""
    height, width = mask.shape
    size = (height // facts.scale_factor, width // facts.scale_factor)
    pixels = torch.from_numpy(mask)[None, None].float()
    cells = torch.nn.functional.interpolate(pixels, size=size)
    return cells.to(device=facts.device, dtype=facts.dtype)
