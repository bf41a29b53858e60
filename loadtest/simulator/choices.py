"""Scalers by name, with the routing and the bounds that each is meant to run with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loadtest.simulator.baselines import FixedScaler, OngoingScaler, ThresholdScaler
from loadtest.simulator.planned import PlannerScaler
from loadtest.simulator.scalers import Scaler
from loadtest.simulator.scenario import Scenario
from loadtest.simulator.scenarios import enough
from serve_app.autoscaling.planner import PlannerOptions
from serve_app.routing.router import WaitLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to run the service.

    Attributes:
        make: a fresh scaler for a scenario.
        policy: routing policy instead of the scenario's.
        min_replicas: least replicas of every pool instead of the scenario's.
        hold_s: seconds that requests may wait for capacity, instead of the scenario's.
        late, max_ongoing: see ``Scenario``.
        limits: admission limits instead of the scenario's.
    """

    make: Callable[[Scenario], Scaler]
    policy: str | None = None
    min_replicas: int | None = None
    hold_s: float | None = None
    late: bool = False
    max_ongoing: int | None = None
    limits: WaitLimits | None = None

    def applied(self, scenario: Scenario) -> Scenario:
        """``scenario`` with this choice's routing and bounds; its warm start stays the same."""
        pools, least = scenario.pools, self.min_replicas
        initial = {pool.name: scenario.initial.get(pool.name, pool.min_replicas) for pool in pools}
        if least is not None:
            pools = tuple(replace(pool, min_replicas=least) for pool in pools)
        return replace(
            scenario,
            pools=pools,
            initial=initial,
            policy=scenario.policy if self.policy is None else self.policy,
            hold_s=scenario.hold_s if self.hold_s is None else self.hold_s,
            late=scenario.late or self.late,
            max_ongoing=scenario.max_ongoing if self.max_ongoing is None else self.max_ongoing,
            limits=scenario.limits if self.limits is None else self.limits,
        )


def _threshold(scenario: Scenario) -> Scaler:
    return ThresholdScaler(scenario.thresholds)


def _threshold_offered(scenario: Scenario) -> Scaler:
    return ThresholdScaler(scenario.thresholds, offered=True)


def _threshold_tuned(scenario: Scenario) -> Scaler:
    profiles = {
        pool.name: pool.profile or pool.speed.profile(scenario.default, scenario.slo_s)
        for pool in scenario.pools
    }
    # A slow pool's rate within the objective is 0, which is no threshold.
    thresholds = {name: 0.7 * max(one.images_per_minute, 1.0) for name, one in profiles.items()}
    return ThresholdScaler(thresholds, offered=True)


def _ongoing(scenario: Scenario) -> Scaler:
    return OngoingScaler()


def _fixed(scenario: Scenario) -> Scaler:
    import numpy as np

    minutes = np.arange(0.0, scenario.duration_s, 60.0)
    return FixedScaler(enough(scenario.pools, float(scenario.arrivals.rates(minutes).max()), 0.7))


def _planner(scenario: Scenario) -> Scaler:
    return PlannerScaler(PlannerOptions(slo_s=scenario.slo_s))


def _misled(scenario: Scenario) -> Scaler:
    return PlannerScaler(PlannerOptions(slo_s=scenario.slo_s), promise=1.25)


# ``threshold`` is the sample's rule to the letter. The next two are the same machinery at its best:
# counting what is asked for, and with thresholds that are 70 % of what a replica can do; then once
# more with equal shares. ``ongoing`` is Ray Serve's default: every deployment by itself, equal
# shares. ``planner`` is ours, ``planner-misled`` the same with profiles a quarter too good.
CHOICES: dict[str, Choice] = {
    "threshold": Choice(make=_threshold),
    "threshold-offered": Choice(make=_threshold_offered),
    "threshold-tuned": Choice(make=_threshold_tuned),
    "equal-tuned": Choice(make=_threshold_tuned, policy="capacity"),
    "ongoing": Choice(make=_ongoing, policy="capacity", max_ongoing=5),
    "fixed": Choice(make=_fixed),
    "planner": Choice(make=_planner, policy="latency", min_replicas=0, late=True),
    "planner-misled": Choice(make=_misled, policy="latency", min_replicas=0, late=True),
}
