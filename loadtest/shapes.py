"""Shapes of load, by name: the processes of the simulator on a real service's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.simulator.arrivals import Arrivals, Burst, Constant, CosineDay, Poisson

SHAPES = ("constant", "poisson", "cosine", "burst", "replay")


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """What the shapes can be told.

    Attributes:
        rate: requests a second; ``cosine``: at its top, ``burst``: without it.
        duration_s: seconds of load.
        low: bottom of ``cosine``, requests a second; ``None``: a tenth of the top.
        period_s: of ``cosine``, from bottom to bottom; ``None``: the whole duration is one day.
        factor: how many times the rate a ``burst`` is.
        burst_from_s, burst_for_s: when it starts and how long it stays; ``None``: the third fifth.
    """

    rate: float
    duration_s: float
    low: float | None = None
    period_s: float | None = None
    factor: float = 5.0
    burst_from_s: float | None = None
    burst_for_s: float | None = None


def arrivals(shape: str, options: ShapeOptions) -> Arrivals:
    """The process of a shape other than ``replay``.

    Raises:
        ValueError: no such shape, or numbers that make none.
    """
    rate, duration_s = options.rate, options.duration_s
    if not (0 < rate < np.inf and 0 < duration_s < np.inf):
        raise ValueError(f"rate {rate:g} and duration {duration_s:g}: both must be above 0")
    match shape:
        case "constant":
            return Constant(rate)
        case "poisson":
            return Poisson(rate)
        case "cosine":
            low = rate / 10 if options.low is None else options.low
            if not 0 <= low <= rate:
                raise ValueError(f"low: got {low:g}; allowed: from 0 to the rate {rate:g}")
            return CosineDay(low, rate, options.period_s or duration_s)
        case "burst":
            if options.factor <= 0:
                raise ValueError(f"factor: got {options.factor:g}; allowed: above 0")
            fifth = duration_s / 5
            from_s = 2 * fifth if options.burst_from_s is None else options.burst_from_s
            for_s = fifth if options.burst_for_s is None else options.burst_for_s
            return Burst(Poisson(rate), options.factor, from_s, for_s)
    raise ValueError(f"shape: got {shape!r}; allowed: {', '.join(SHAPES)}")


def due_times(process: Arrivals, duration_s: float, seed: int) -> Sequence[float]:
    """Ascending seconds at which requests are due; the same seed gives the same ones."""
    blocks = list(process.times(np.random.default_rng(seed), duration_s))
    times = np.concatenate(blocks) if blocks else np.empty(0)
    return [float(at) for at in times]
