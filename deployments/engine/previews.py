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
        weights: ``[channels + 1, 3 * side * side]``, the last row the constant; a cell becomes
            ``side`` by ``side`` pixels of values 0 to 1.
    """

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self._weights = weights
        self.side = math.isqrt(weights.shape[1] // 3)

    @classmethod
    @torch.inference_mode()
    def fit(
        cls, backend: Backend, height: int, width: int, side: int | None = None
    ) -> LinearDecoder:
        """Fit to what the backend's VAE makes of pictures of ``height`` by ``width`` pixels.

        Pictures of smooth colours and flat shapes, drawn from a fixed seed.

        Args:
            backend: has the VAE.
            height: of the model's own pictures.
            width: of them too.
            side: pixels a side of each latent cell; ``None`` for half as many as the picture has,
                with which they look best (benchmarks/previews.md).
        """
        cell = backend.facts.scale_factor
        side = side or max(1, cell // 2)
        count = max(1, math.ceil(_CELLS * cell * cell / (height * width)))
        dice = np.random.default_rng(0)
        pictures = [_picture(dice, height, width) for _ in range(count)]
        generator = torch.Generator("cpu").manual_seed(0)
        latents = [backend.encode_image(picture, generator) for picture in pictures]
        wanted = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        wanted = torch.nn.functional.avg_pool2d(wanted, cell // side)
        wanted = torch.nn.functional.pixel_unshuffle(wanted, side).permute(0, 2, 3, 1)
        rows = torch.from_numpy(_with_one(torch.cat(latents))).double()
        # In double precision, and for channels that say nothing as well (least norm).
        solution = torch.linalg.lstsq(rows, wanted.flatten(0, 2).double(), driver="gelsd").solution
        return cls(solution.float().numpy())

    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """``[1, channels, h, w]`` latents to ``[h * side, w * side, 3]`` pixels."""
        _, _, height, width = latents.shape
        # In numpy: on so few numbers torch's overhead would be most of the time.
        cells = np.nan_to_num(_with_one(latents) @ self._weights)
        levels = (cells.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        grid = levels.reshape(height, width, 3, self.side, self.side).transpose(0, 3, 1, 4, 2)
        pixels: NDArray[np.uint8] = grid.reshape(height * self.side, width * self.side, 3)
        return pixels


def _with_one(latents: torch.Tensor) -> NDArray[np.float32]:
    """``[n, channels, h, w]`` to ``[n * h * w, channels + 1]``."""
    values = latents.to("cpu", torch.float32).numpy()
    cells = values.transpose(0, 2, 3, 1).reshape(-1, values.shape[1])
    return np.concatenate([cells, np.ones((len(cells), 1), np.float32)], axis=1)


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
