"""How many rows and pictures fit a device's free memory: measured, not assumed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

logger = logging.getLogger(__name__)

# Part of the free memory left alone: prompt embeddings, latents that wait, fragmentation.
RESERVE = 0.1
# Decoding runs beside the steps; it may have this part of what is free.
DECODE_SHARE = 1 / 3


class Memory(Protocol):
    """A device's memory, in bytes."""

    def free(self) -> int:
        """What tensors could still take."""
        ...

    def peak(self, work: Callable[[], object]) -> int:
        """What ``work`` takes at its peak, beyond what is there before.

        Raises:
            torch.OutOfMemoryError: it does not fit.
        """
        ...

    def release(self) -> None:
        """Give cached memory back to the device."""
        ...


class CudaMemory:
    """Memory of a CUDA device, as torch's caching allocator sees it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """See ``Memory``."""
        free, _ = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device)
        return free + cached - torch.cuda.memory_allocated(self._device)

    def peak(self, work: Callable[[], object]) -> int:
        """See ``Memory``."""
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before

    def release(self) -> None:
        """See ``Memory``."""
        gc.collect()
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Line:
    """Bytes by number of rows: ``fixed + rows * each``."""

    fixed: float
    each: float

    @classmethod
    def through(cls, few: tuple[int, int], more: tuple[int, int]) -> Line:
        """The line through two measurements of (rows, bytes); no row is free."""
        each = max((more[1] - few[1]) / (more[0] - few[0]), more[1] / more[0] / 2, 1.0)
        return cls(max(0.0, more[1] - more[0] * each), each)

    def bytes(self, rows: int) -> float:
        """What so many rows take."""
        return self.fixed + rows * self.each

    def most(self, budget: float) -> int:
        """How many rows ``budget`` bytes hold."""
        return max(0, int((budget - self.fixed) / self.each))


@dataclass(frozen=True, slots=True)
class Room:
    """What fits: rows of a step, and pictures decoded at once beside it."""

    rows: int
    pictures: int


def measure_room(
    memory: Memory,
    step: Callable[[int], object],
    decode: Callable[[int], object],
    *,
    most_rows: int,
    most_pictures: int,
) -> Room:
    """Try one and two rows and pictures, and conclude how many fit together.

    Args:
        memory: of the device, the model loaded.
        step: runs one denoising step of so many rows.
        decode: decodes so many pictures.
        most_rows: never more than this.
        most_pictures: never more than this.

    Raises:
        RuntimeError: not even one row and one picture fit beside the model.
    """
    memory.release()
    budget = memory.free() * (1 - RESERVE)
    try:
        steps, most_rows = _line(memory, step, most_rows)
        decodes, most_pictures = _line(memory, decode, most_pictures)
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"one picture does not fit the {budget / 2**30:.2f} GiB left beside the model: take a"
            f" smaller model or dtype, or a larger device ({error})"
        ) from error
    pictures = max(1, min(most_pictures, decodes.most(budget * DECODE_SHARE)))
    rows = max(1, min(most_rows, steps.most(budget - decodes.bytes(pictures))))
    logger.info(
        "%.2f GiB free: %d rows at %.0f MiB each, %d pictures decoded at once at %.0f MiB each",
        budget / 2**30,
        rows,
        steps.each / 2**20,
        pictures,
        decodes.each / 2**20,
    )
    return Room(rows, pictures)


def _line(memory: Memory, work: Callable[[int], object], most: int) -> tuple[Line, int]:
    """What ``work`` takes by its size, and the largest size to consider."""
    # At the first call of each shape libraries take workspaces, and cuDNN tries algorithms that
    # want gigabytes: that is not what a row takes.
    work(1)
    one = memory.peak(lambda: work(1))
    if most > 1:
        try:
            work(2)
            return Line.through((1, one), (2, memory.peak(lambda: work(2)))), most
        except torch.OutOfMemoryError:
            memory.release()
    return Line.through((0, 0), (1, one)), 1
