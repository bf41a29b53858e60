"""Scalers to compare with: the AWS sample's, Ray Serve's own, a fixed fleet, perfect foresight."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtest.simulator.scalers import Observation
from serve_app.autoscaling.views import PoolView


@dataclass(frozen=True, slots=True)
class FixedScaler:
    """Always the same fleet.

    Attributes:
        counts: replicas by pool.
        period_s: seconds between decisions.
    """

    counts: Mapping[str, int]
    period_s: float = 60.0

    def decide(self, now_s: float, view: Observation) -> Mapping[str, int]:
        """See ``Scaler.decide``."""
        return self.counts


@dataclass(slots=True)
class ThresholdScaler:
    """KEDA with a Kubernetes HPA per pool, on the pool's answered images per minute.

    ``ceil(rate / threshold)`` unless that is within ``tolerance`` of the present count; up at most
    to double or by four per decision; down to the highest wish of the last ``down_s`` (the HPA's
    defaults). The sample's metric counts answers and so never shows more than the pool can do: a
    threshold above what a replica can do is never reached, however long the queue grows.

    Attributes:
        thresholds_per_minute: images per minute and replica, by pool.
        tolerance: part of the present count by which the wish must differ.
        down_s: stabilisation of scaling down, in seconds.
        period_s: seconds between decisions.
        offered: count requests sent to the pool instead of answers.
    """

    thresholds_per_minute: Mapping[str, float]
    tolerance: float = 0.1
    down_s: float = 300.0
    period_s: float = 15.0
    offered: bool = False
    _wishes: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def decide(self, now_s: float, view: Observation) -> Mapping[str, int]:
        """See ``Scaler.decide``."""
        targets = {}
        for pool in view.pools:
            traffic = view.traffic[pool.name]
            per_minute = 60 * (traffic.arrivals_per_s if self.offered else traffic.images_per_s)
            ratio = per_minute / self.thresholds_per_minute[pool.name]
            wish = self._wish(ratio, pool.target)
            wish = min(max(wish, pool.min_replicas), pool.max_replicas)
            wishes = self._wishes.setdefault(pool.name, deque())
            wishes.append((now_s, wish))
            while wishes[0][0] <= now_s - self.down_s:
                wishes.popleft()
            highest = max(count for _, count in wishes)
            if wish < pool.target:
                wish = min(pool.target, highest)
            targets[pool.name] = wish
        return targets

    def _wish(self, ratio: float, target: int) -> int:
        if target == 0:
            return math.ceil(ratio)
        if abs(ratio / target - 1) <= self.tolerance:
            return target
        return min(math.ceil(ratio - 1e-9), max(2 * target, target + 4))


@dataclass(slots=True)
class _Trend:
    """Of one pool: recent ongoing requests, and since when the wish has been above or below."""

    recent: deque[tuple[float, int]] = field(default_factory=deque)
    sign: int = 0
    since_s: float = 0.0


@dataclass(slots=True)
class OngoingScaler:
    """Ray Serve's default: ongoing requests per replica, each deployment for itself.

    ``ceil(ongoing / target_ongoing)``, with ongoing averaged over ``look_back_s``, once that has
    been wished for in one direction for the delay; from 0 replicas at once.

    Attributes:
        target_ongoing: requests per replica aimed at.
        upscale_delay_s, downscale_delay_s: how long the wish must last, in seconds.
        look_back_s: seconds that ongoing requests are averaged over.
        period_s: seconds between decisions.
    """

    target_ongoing: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_s: float = 30.0
    period_s: float = 5.0
    _trends: dict[str, _Trend] = field(default_factory=dict)

    def decide(self, now_s: float, view: Observation) -> Mapping[str, int]:
        """See ``Scaler.decide``."""
        return {
            pool.name: self._decide(pool, view.traffic[pool.name].ongoing, now_s)
            for pool in view.pools
        }

    def _decide(self, pool: PoolView, ongoing: int, now_s: float) -> int:
        trend = self._trends.setdefault(pool.name, _Trend())
        recent = trend.recent
        recent.append((now_s, ongoing))
        while recent[0][0] <= now_s - self.look_back_s:
            recent.popleft()
        if pool.ready == 0 and pool.target > 0:
            return pool.target
        mean = sum(count for _, count in recent) / len(recent)
        wish = math.ceil(mean / self.target_ongoing - 1e-9)
        wish = min(max(wish, pool.min_replicas), pool.max_replicas)
        if pool.target == 0:
            return wish
        sign = (wish > pool.target) - (wish < pool.target)
        if sign != trend.sign:
            trend.sign, trend.since_s = sign, now_s
        delay_s = self.upscale_delay_s if sign > 0 else self.downscale_delay_s
        if sign == 0 or now_s - trend.since_s < delay_s - 1e-6:
            return pool.target
        trend.sign = 0
        # Only the last replica may go to none.
        return wish if sign > 0 or pool.target == 1 else max(1, wish)


def oracle_cost(
    pools: Sequence[PoolView], row_steps_per_s: Sequence[float], bucket_s: float = 60.0
) -> float:
    """US dollars that even perfect foresight must pay: a lower bound.

    For each bucket the cheapest fleet within the bounds, in whole nodes, that covers the bucket's
    mean demand with every replica fully used, as if replicas came and went in no time. Work is not
    put off to a later bucket, which an objective of seconds does not allow anyway.

    Args:
        pools: capacities, prices and bounds; their present counts do not matter.
        row_steps_per_s: mean demand of each bucket, e.g. from ``Report.samples``.
        bucket_s: length of a bucket in seconds.
    """
    # Imported here: only the oracle needs a solver.
    from serve_app.autoscaling.cheapest import cheapest, cost_of

    per_hour = sum(cost_of(pools, cheapest(pools, demand)) for demand in row_steps_per_s)
    return per_hour * bucket_s / 3600
