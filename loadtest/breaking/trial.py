"""One trial: Poisson load of one rate on one pool, for a while, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.figures import quantile
from loadtest.outcome import Outcome

# A trial starts with an empty queue: its first part is not what that load is like for long.
SETTLING = 0.25


@dataclass(frozen=True, slots=True)
class Trial:
    """Outcomes of one trial; what is told of it leaves the first quarter out.

    Attributes:
        rate: requests a second that were offered, the mean of the Poisson process.
        duration_s: seconds in which requests were due; answers came later too.
        outcomes: of every request.
    """

    rate: float
    duration_s: float
    outcomes: Sequence[Outcome]

    @property
    def settled(self) -> list[Outcome]:
        """Outcomes of requests due after the first part."""
        from_s = SETTLING * self.duration_s
        return [one for one in self.outcomes if one.due_s >= from_s]

    @property
    def offered_per_s(self) -> float:
        """Requests that were due, a second."""
        return len(self.settled) / ((1 - SETTLING) * self.duration_s)

    @property
    def served_per_s(self) -> float:
        """Pictures that came while requests were due, a second."""
        from_s = SETTLING * self.duration_s
        came = sum(one.ok and from_s <= one.done_s <= self.duration_s for one in self.outcomes)
        return came / ((1 - SETTLING) * self.duration_s)

    @property
    def failed(self) -> int:
        """Requests without a picture."""
        return sum(not one.ok for one in self.outcomes)

    def latency_s(self, percent: float) -> float | None:
        """Percentile of the latency of pictures, in seconds from when they were due."""
        return quantile([one.latency_s for one in self.settled if one.ok], percent)

    def painting_s(self, percent: float) -> float | None:
        """Percentile of the time in the batch, in seconds; ``None`` where it is not told."""
        told = [one.answer.painting_s for one in self.settled if one.ok]
        return quantile([seconds for seconds in told if seconds is not None], percent)

    def late(self, slo_s: float) -> NDArray[np.bool_]:
        """Which requests, in order, had no picture within ``slo_s``."""
        return np.array([not one.ok or one.latency_s > slo_s for one in self.settled], dtype=bool)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the curve."""
        return {
            "rate_per_s": self.rate,
            "duration_s": self.duration_s,
            "requests": len(self.outcomes),
            "failed": self.failed,
            "offered_per_s": self.offered_per_s,
            "served_per_s": self.served_per_s,
            "p50_s": self.latency_s(50),
            "p95_s": self.latency_s(95),
            "painting_p50_s": self.painting_s(50),
        }
