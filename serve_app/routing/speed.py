"""How fast one replica is, by batch size; and what it paints per minute within a latency."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.routing.work import Work


@dataclass(frozen=True, slots=True)
class Profile:
    """What one replica was measured to do with the model's default request.

    Attributes:
        latency_s: seconds from request to picture, alone.
        images_per_minute: most pictures a minute in batches in which each takes at most the
            latency objective. Waiting before a batch is not counted: how much there is depends on
            the arrivals, and the planner keeps room for it.
    """

    latency_s: float
    images_per_minute: float


class Speed:
    """Milliseconds of a denoising step by rows in the batch, between measured sizes linear.

    Args:
        step_cost_ms: rows -> milliseconds; at least one entry.
        max_rows: most rows that step together.

    Raises:
        ValueError: nothing was measured.
    """

    __slots__ = ("_costs", "_rows", "max_rows")

    def __init__(self, step_cost_ms: Mapping[int, float], max_rows: int) -> None:
        if not step_cost_ms:
            raise ValueError("step_cost_ms: empty; give at least one batch size")
        self._rows = sorted(step_cost_ms)
        self._costs = [step_cost_ms[rows] for rows in self._rows]
        self.max_rows = max_rows

    @classmethod
    def of_profile(cls, profile: Profile, default: Work) -> Speed:
        """The speed that explains a profile: so many requests at once, each ``latency_s`` long.

        By Little's law (Operations Research 9(3), 1961) rate times latency are in the batch.
        """
        at_once = max(1, round(profile.images_per_minute / 60 * profile.latency_s))
        step_ms = profile.latency_s * 1000 / default.steps
        rows = max(1, round(at_once * default.rows))
        return cls({rows: step_ms}, rows)

    def step_ms(self, rows: float) -> float:
        """Milliseconds of one step; beyond the largest measured batch in proportion."""
        sizes, costs = self._rows, self._costs
        if rows >= sizes[-1]:
            return costs[-1] * rows / sizes[-1]
        if rows <= sizes[0]:
            return costs[0]
        above = bisect_left(sizes, rows)
        low, high = sizes[above - 1], sizes[above]
        share = (rows - low) / (high - low)
        return costs[above - 1] + share * (costs[above] - costs[above - 1])

    def profile(self, default: Work, slo_s: float) -> Profile:
        """Best rate of ``default`` requests with which each takes at most ``slo_s``.

        A replica too slow for the objective even alone has a rate of 0.
        """
        latency_s = default.steps * self.step_ms(default.rows) / 1000
        best = 0.0
        at_once = 1
        while at_once == 1 or at_once * default.rows <= self.max_rows:
            took_s = default.steps * self.step_ms(at_once * default.rows) / 1000
            if took_s <= slo_s:
                best = max(best, at_once / took_s * 60)
            at_once += 1
        return Profile(latency_s, best)
