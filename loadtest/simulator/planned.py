"""Production's planner as a scaler of the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loadtest.simulator.scalers import Observation
from serve_app.autoscaling.planner import Plan, PlannerOptions, plan


class PlannerScaler:
    """``serve_app.autoscaling.planner.plan``, fed with what the simulator sees.

    Args:
        options: of the planner.
        period_s: seconds between decisions.
        promise: how many times what replicas really do the planner is told they do.

    Attributes:
        last: the newest decision.
    """

    def __init__(
        self, options: PlannerOptions, period_s: float = 5.0, promise: float = 1.0
    ) -> None:
        self._options = options
        self._period_s = period_s
        self._promise = promise
        self.last = Plan()

    @property
    def period_s(self) -> float:
        """See ``Scaler``."""
        return self._period_s

    def decide(self, now_s: float, view: Observation) -> Mapping[str, int]:
        """See ``Scaler``."""
        pools = [replace(pool, capacity=pool.capacity * self._promise) for pool in view.pools]
        self.last = plan(now_s, pools, view.demand, self._options, self.last)
        return self.last.targets
