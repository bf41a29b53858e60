"""Designed latents: an exact linear map between 8 × 8 pixel patches and 16 numbers."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

PATCH: Final = 8
CHANNELS: Final = 16
# Scaling by std^-0.6 keeps colour means strongest without drowning the detail components; full
# whitening (std^-1) was measured to give blotchy colours.
_EVENING: Final = 0.6


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in -1..1."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_bytes(unit: Tensor) -> Tensor:
    """Float [N, 3, H, W] in -1..1 to uint8 [N, H, W, 3], clipped."""
    return unit.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def _patches(unit: Tensor) -> Tensor:
    """[N, 3, H, W] to [N, H/8, W/8, 192]."""
    n, c, h, w = unit.shape
    split = unit.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(n, h // PATCH, w // PATCH, c * PATCH * PATCH)


@dataclass(frozen=True)
class Basis:
    """Principal components of patches: `mean` [192], `components` [16, 192], `scale` [16]."""

    mean: Tensor
    components: Tensor
    scale: Tensor

    def encode(self, unit: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] in -1..1 to latents float32 [N, 16, H/8, W/8]."""
        rows = (_patches(unit) - self.mean) @ self.components.T * self.scale
        return rows.permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [N, 16, h, w] to pictures [N, 3, 8h, 8w]; linear, so edges ring a little."""
        n, _, h, w = latents.shape
        rows = (latents.permute(0, 2, 3, 1) / self.scale) @ self.components + self.mean
        split = rows.reshape(n, h, w, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
        return split.reshape(n, 3, h * PATCH, w * PATCH)

    def tensors(self) -> dict[str, Tensor]:
        """For saving."""
        return {"mean": self.mean, "components": self.components, "scale": self.scale}


def fit(unit: Tensor) -> Basis:
    """The basis of pictures float32 [N, 3, H, W]; latents then have overall std 1, mean 0."""
    rows = _patches(unit).reshape(-1, 3 * PATCH * PATCH)
    mean = rows.mean(0)
    centred = (rows - mean).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    components = vectors.T.flip(0)[:CHANNELS].float()
    std = values.flip(0)[:CHANNELS].clamp_min(1e-12).sqrt().float()
    scaled = std ** (1 - _EVENING)
    scale = std**-_EVENING / scaled.square().mean().sqrt()
    return Basis(mean.contiguous(), components.contiguous(), scale.contiguous())
