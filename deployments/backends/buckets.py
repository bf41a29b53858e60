"""Batch sizes for which there are graphs: rows are padded up to one, or run in several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

logger = logging.getLogger(__name__)

# After so many calls without a shortage the next larger size is tried again.
REGROW_CALLS = 500

Run = Callable[[int, int, int], torch.Tensor]


def doubling(most: int) -> tuple[int, ...]:
    """1, 2, 4, … up to ``most``, and ``most`` itself."""
    sizes = [1]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return (*sizes, most) if sizes[-1] != most else tuple(sizes)


class Buckets:
    """The sizes in use; the largest go while memory is short and come back later.

    Args:
        sizes: batch sizes in rows.
        release: gives cached memory back to the device.
    """

    def __init__(self, sizes: Sequence[int], release: Callable[[], None] = lambda: None) -> None:
        self._all = tuple(sorted(set(sizes)))
        if not self._all or self._all[0] < 1:
            raise ValueError(f"sizes: got {sizes!r}; at least one, from 1 on, needed")
        self._release = release
        self._count = len(self._all)
        self._calm = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes in use, smallest first."""
        return self._all[: self._count]

    @property
    def largest(self) -> int:
        """The largest size in use."""
        return self._all[self._count - 1]

    def fit(self, rows: int) -> int:
        """The smallest size that holds ``rows``, else the largest."""
        return next((size for size in self.sizes if size >= rows), self.largest)

    def drop(self, size: int) -> bool:
        """Stop using ``size`` and what is larger; false when nothing smaller is left."""
        smaller = [one for one in self.sizes if one < size]
        if not smaller:
            return False
        self._count, self._calm = len(smaller), 0
        logger.warning("out of memory at %d rows: at most %d from now on", size, self.largest)
        return True

    def run(self, rows: int, run: Run) -> torch.Tensor:
        """Run ``rows`` in as few parts as the sizes allow, smaller ones where memory is short.

        Args:
            rows: how many there are.
            run: called with the first row, how many, and the bucket to pad them to; returns a
                tensor with at least as many rows.

        Returns:
            The parts' rows in order.

        Raises:
            torch.OutOfMemoryError: not even the smallest size fits.
        """
        first, parts = 0, []
        while first < rows:
            count = min(rows - first, self.largest)
            part = self._try(first, count, run)
            if part is not None:
                parts.append(part[:count])
                first += count
        self._regrow()
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _try(self, first: int, count: int, run: Run) -> torch.Tensor | None:
        """One part; ``None`` after the sizes have shrunk."""
        size = self.fit(count)
        try:
            return run(first, count, size)
        except torch.OutOfMemoryError:
            shortage = True
        # Outside the handler: the error's frames hold tensors. What other streams or shapes have
        # left in the cache may be all that is missing.
        self._release()
        try:
            return run(first, count, size)
        except torch.OutOfMemoryError:
            shortage = self.drop(size)
            if not shortage:
                raise
        self._release()
        return None

    def _regrow(self) -> None:
        if self._count == len(self._all):
            return
        self._calm += 1
        if self._calm >= REGROW_CALLS:
            self._count, self._calm = self._count + 1, 0
