"""Ratios of measurements that were taken side by side, and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

_RESAMPLES = 10_000
_SEED = 1

Verdict = Literal["holds", "does not hold", "not decided"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The geometric mean of paired ratios, with its 95 % confidence interval.

    Attributes:
        mean: of all pairs.
        low, high: 2.5th and 97.5th percentile of the mean over pairs drawn again with replacement
            (Efron's percentile bootstrap, 10,000 times).
        pairs: how many.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, ours: ArrayLike, base: ArrayLike) -> Ratio:
        """Of ``ours`` over ``base``, each ``[pairs]`` and above 0.

        Raises:
            ValueError: of unlike length, or none.
        """
        above, below = np.asarray(ours, float), np.asarray(base, float)
        if above.shape != below.shape or above.ndim != 1 or not above.size:
            raise ValueError(f"pairs must be as many: got shapes {above.shape} and {below.shape}")
        logs = np.log(above / below)
        drawn = np.random.default_rng(_SEED).integers(0, logs.size, (_RESAMPLES, logs.size))
        low, high = np.percentile(logs[drawn].mean(axis=1), [2.5, 97.5])
        mean, low, high = (float(np.exp(one)) for one in (logs.mean(), low, high))
        return cls(mean, low, high, logs.size)

    def at_most(self, bound: float) -> Verdict:
        """Whether the true ratio is at most ``bound``, as far as these pairs can tell."""
        if self.high <= bound:
            return "holds"
        return "does not hold" if self.low > bound else "not decided"

    def at_least(self, bound: float) -> Verdict:
        """Whether the true ratio is at least ``bound``, as far as these pairs can tell."""
        if self.low >= bound:
            return "holds"
        return "does not hold" if self.high < bound else "not decided"

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"
