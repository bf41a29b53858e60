"""Pictures on the way: a linear map from latents to pixels, which costs next to nothing.

That three or four channels of a latent are nearly the picture's colours is well known
(https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204). The map is
fitted by least squares to the model's own VAE when it is loaded, since every VAE needs its own,
and it makes several pixels of each latent cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from deployments.backends.base import Backend

# Latent cells to fit a few dozen coefficients to.
_CELLS = 2048
_SHAPES = 6


def preview_steps(steps: int, previews: int) -> tuple[int, ...]:
    """After which of ``steps`` to show ``previews`` pictures: evenly, never after the last.

    Fewer where there are not as many steps.
    """
    due = {round(steps * number / (previews + 1)) for number in range(1, previews + 1)}
    return tuple(sorted(step for step in due if 0 < step < steps))


class LinearDecoder:
    """Latents to small pictures by one matrix product.

    Args:
        weights: ``[channels + 1, side * side * 3]``, the last row the constant; a cell becomes
            ``side`` by ``side`` pixels of values 0 to 1.
    """

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights = weights
        self.side = math.isqrt(weights.shape[1] // 3)

    @classmethod
    @torch.inference_mode()
    def fit(cls, backend: Backend, height: int, width: int) -> LinearDecoder:
        """Fit to what the backend's VAE makes of pictures of ``height`` by ``width`` pixels.

        Pictures of smooth colours and flat shapes, drawn from a fixed seed; half as many pixels
        a side as the picture has (more would be noise: benchmarks/previews.md).
        """
        cell = backend.facts.scale_factor
        side = max(1, cell // 2)
        count = max(1, math.ceil(_CELLS * cell * cell / (height * width)))
        dice = np.random.default_rng(0)
        pictures = [_picture(dice, height, width) for _ in range(count)]
        generator = torch.Generator("cpu").manual_seed(0)
        latents = [backend.encode_image(picture, generator) for picture in pictures]
        wanted = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        wanted = torch.nn.functional.avg_pool2d(wanted, cell // side)
        wanted = torch.nn.functional.pixel_unshuffle(wanted, side).permute(0, 2, 3, 1)
        rows = _with_one(torch.cat(latents))
        # In double precision, and for channels that say nothing as well (least norm).
        solution = torch.linalg.lstsq(
            rows.double(), wanted.flatten(0, 2).double(), driver="gelsd"
        ).solution
        return cls(solution.float())

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """``[1, channels, h, w]`` latents to ``[h * side, w * side, 3]`` pixels."""
        _, _, height, width = latents.shape
        cells = (_with_one(latents) @ self._weights).nan_to_num()
        grid = cells.view(1, height, width, -1).permute(0, 3, 1, 2)
        pixels = torch.nn.functional.pixel_shuffle(grid, self.side)[0].permute(1, 2, 0)
        return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _with_one(latents: torch.Tensor) -> torch.Tensor:
    """``[n, channels, h, w]`` to ``[n * h * w, channels + 1]`` on the CPU."""
    cells = latents.to("cpu", torch.float32).permute(0, 2, 3, 1).flatten(0, 2)
    return torch.cat([cells, cells.new_ones(len(cells), 1)], dim=1)


def _picture(dice: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A smooth field of colours with some flat shapes on it, ``[height, width, 3]``."""
    field = dice.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for number in range(_SHAPES):
        box = _box(dice, height, width)
        colour = tuple(int(level) for level in dice.integers(0, 256, 3))
        (draw.ellipse if number % 2 else draw.rectangle)(box, fill=colour)
    return np.array(picture)


def _box(dice: np.random.Generator, height: int, width: int) -> Sequence[int]:
    left, top = int(dice.integers(0, width)), int(dice.integers(0, height))
    return (
        left,
        top,
        left + int(dice.integers(1, width // 2)),
        top + int(dice.integers(1, height // 2)),
    )
