"""Saturated throughput: the rate of answers while more waits than can be painted at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.breaking.trial import Trial

Draws = NDArray[np.float64]

DRAWS = 1000
# Fewer answers in a row tell nothing; of batches more are needed, as these come together.
_FEWEST = 6
_BATCHES = 4
_WINDOW = 4


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % bounds."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Draws) -> Estimate:
        """Median and middle 95 % of draws."""
        low, value, high = (float(one) for one in np.quantile(draws, (0.025, 0.5, 0.975)))
        return cls(value, low, high)

    def per(self, count: float) -> Estimate:
        """The same divided, bounds too."""
        return Estimate(self.value / count, self.low / count, self.high / count)


def stretches(trial: Trial, at_once: int) -> list[Draws]:
    """Seconds between answers, in each stretch of time in which all places were taken.

    After an answer at least ``at_once`` accepted requests must still be there; then every place of
    every replica is taken until the next one. Refused and failed requests count as never there.

    Args:
        trial: a trial of any rate; stretches come of overload mostly.
        at_once: requests that the pool paints at once.
    """
    answered = [one for one in trial.outcomes if one.ok]
    done = np.sort([one.done_s for one in answered])
    sent = np.sort([one.sent_s for one in answered])
    there = np.searchsorted(sent, done, side="right") - np.arange(1, done.size + 1)
    found: list[Draws] = []
    current: list[float] = []
    for index in range(done.size - 1):
        if there[index] >= at_once:
            current.append(float(done[index + 1] - done[index]))
        elif current:
            found.append(np.array(current))
            current = []
    if current:
        found.append(np.array(current))
    fewest = max(_FEWEST, _BATCHES * at_once) if at_once > 1 else _FEWEST
    return [one for one in found if one.size >= fewest]


def capacity_draws(
    trials: Sequence[Trial], at_once: int, rng: np.random.Generator, draws: int = DRAWS
) -> Draws | None:
    """Draws of the saturated throughput in pictures a second; ``None`` if nothing was saturated.

    Of windows of a few answers each the median counts, so that a spell in which the machine was
    busy with something else does not. The windows are bootstrapped in blocks (Kuensch, Annals of
    Statistics 17(3), 1989), as neighbours depend on each other.
    """
    length = max(_WINDOW, _BATCHES * at_once if at_once > 1 else 0)
    windows = [
        length / stretch[start : start + length].sum()
        for trial in trials
        for stretch in stretches(trial, at_once)
        for start in range(0, stretch.size - length + 1, length // 2)
    ]
    if not windows:
        return None
    every = np.array(windows)
    # Windows overlap by half.
    block = min(every.size, max(2, round(every.size**0.5)))
    blocks = -(-every.size // block)
    # Round the end, so that each window is drawn equally often.
    starts = rng.integers(0, every.size, (draws, blocks, 1))
    picked = every[(starts + np.arange(block)) % every.size].reshape(draws, -1)
    rates: Draws = np.median(picked, axis=1)
    return rates
