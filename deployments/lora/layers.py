"""Layers of which every row of the batch may use another adapter, or none.

All adapters of a layer are stacked; each row picks its own matrices by index and multiplies with
them in one batched product (as in Punica, arXiv:2310.18547, here without a kernel of its own). So
rows of different adapters share one forward pass, and one compiled graph serves any mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


class Selection:
    """Which adapter each row uses; shared by all layers of a network.

    Attributes:
        index: ``[rows]`` int64; 0 is none, ``k`` the k-th adapter. ``None``: no row uses any.
    """

    def __init__(self) -> None:
        self.index: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """One adapter's part in one layer.

    Attributes:
        down: ``[rank, in]``, or ``[rank, in, kh, kw]`` for a convolution.
        up: ``[out, rank]``, or ``[out, rank, 1, 1]``; the scale is not in it.
        scale: factor of the product.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float


class LoraLayer(nn.Module):
    """A linear or convolutional layer with adapters (arXiv:2106.09685).

    Args:
        base: ``nn.Linear`` or ``nn.Conv2d``.
        pairs: the adapters' parts in order; ``None`` for one that leaves this layer alone.
        selection: of the network.
    """

    def __init__(self, base: nn.Module, pairs: Sequence[Pair | None], selection: Selection) -> None:
        super().__init__()
        self.base = base
        self._selection = selection
        present = [pair for pair in pairs if pair is not None]
        rank = max(pair.down.shape[0] for pair in present)
        like = present[0]
        # Adapter 0 is none: zeros. Ranks are filled up with zeros as well.
        # Kernels lie flat: tensors of four or five dimensions are laid out channels last.
        down = torch.zeros(len(pairs) + 1, rank, like.down[0].numel())
        up = torch.zeros(len(pairs) + 1, like.up.shape[0], rank)
        for i, pair in enumerate(pairs, start=1):
            if pair is not None:
                own = pair.down.shape[0]
                down[i, :own] = pair.down.flatten(1).float()
                up[i, :, :own] = pair.up.flatten(1).float() * pair.scale
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)
        self.down: torch.Tensor
        self.up: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base layer's output, plus each row's adapter."""
        out: torch.Tensor = self.base(x)
        index = self._selection.index
        if index is None:
            return out
        down, up = self.down[index], self.up[index]
        if isinstance(self.base, nn.Conv2d):
            return out + self._convolved(self.base, x, down, up)
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        delta = torch.bmm(torch.bmm(flat, down.transpose(1, 2)), up.transpose(1, 2))
        return out + delta.reshape(out.shape)

    @staticmethod
    def _convolved(
        base: nn.Conv2d, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor
    ) -> torch.Tensor:
        """Each row with its own kernel: one convolution with a group for each row."""
        rows, rank = x.shape[0], down.shape[1]
        inner = nn.functional.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            down.reshape(rows * rank, *base.weight.shape[1:]),
            stride=base.stride,
            padding=base.padding,
            dilation=base.dilation,
            groups=rows,
        )
        delta = torch.bmm(up, inner.reshape(rows, rank, -1))
        return delta.reshape(rows, -1, *inner.shape[2:])
