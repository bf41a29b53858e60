"""The situations worth simulating, after the AWS sample's five deployment units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from loadtest.simulator.arrivals import Burst, CosineDay, Poisson
from loadtest.simulator.controllers import SampleFailover
from loadtest.simulator.mix import DEFAULT_WORK
from loadtest.simulator.scenario import Scenario
from loadtest.simulator.specification import IceWindow, Interruption, PoolSpec, one_at_a_time
from serve_app.routing.speed import Speed

HOUR_S = 3600.0
PEAK_S = 12 * HOUR_S
_DAILY = 400_000
_LOW = 0.1  # part of the peak rate that is left at night
_HOLD_S = 300.0
_P4_PRICE = 1.5
_GPUS = ("g5_compiled", "g6", "g5_eager")

# Seconds a picture, US dollars an hour, weight when optimised for cost, and the sample's two
# thresholds in pictures a minute and replica: optimised for cost, and round robin.
_UNITS: Mapping[str, tuple[float, float, float, float, float]] = {
    "inf2": (0.67, 0.7582, 40, 100, 70),
    "trn1": (0.51, 1.3438, 20, 110, 70),
    "g5_compiled": (0.68, 1.0060, 15, 90, 63),
    "g6": (0.96, 0.8048, 10, 60, 64),
    "g5_eager": (0.92, 1.0060, 15, 60, 63),
}
_COST_THRESHOLDS = {name: unit[3] for name, unit in _UNITS.items()}
_EQUAL_THRESHOLDS = {name: unit[4] for name, unit in _UNITS.items()}


def day_cost(scale: float) -> Scenario:
    """A cosine day on the sample's weights and thresholds optimised for cost."""
    return _day(scale, "day-cost", "weights and thresholds optimised for cost")


def day_equal(scale: float) -> Scenario:
    """The same day, all pools with equal shares."""
    return replace(
        _day(scale, "day-equal", "equal round robin", equal=True), thresholds=_EQUAL_THRESHOLDS
    )


def day_failover(scale: float) -> Scenario:
    """The same day from 10:20 on, so that the drop from 21:20 to 23:20 meets the peak."""
    drop = IceWindow(PEAK_S - HOUR_S, PEAK_S + HOUR_S, cap=0)
    day = _day(scale, "day-failover", "g6 lost for two hours at peak; equal weights meanwhile")
    return replace(
        day,
        pools=_each(day.pools, lambda pool: replace(pool, ice=(drop,)), ["g6"]),
        controller=SampleFailover,
    )


def ice_at_peak(scale: float) -> Scenario:
    """The cheapest pool, with all its nodes, is gone for two hours at peak."""
    gone = IceWindow(PEAK_S - HOUR_S, PEAK_S + HOUR_S, cap=0)
    day = _day(scale, "ice-at-peak", "inf2 unavailable for two hours at peak")
    return replace(day, pools=_each(day.pools, lambda pool: replace(pool, ice=(gone,)), ["inf2"]))


def flash_crowd(scale: float) -> Scenario:
    """Ten times the peak for ten minutes."""
    day = _day(scale, "flash-crowd", "ten times the traffic for ten minutes at peak")
    return replace(day, arrivals=Burst(_cosine(_DAILY * scale), 10.0, PEAK_S, 600.0))


def spot_reclaim(scale: float) -> Scenario:
    """A third of all GPU nodes is reclaimed at peak."""
    strike = Interruption(PEAK_S, 1 / 3)
    day = _day(scale, "spot-reclaim", "a third of the GPU nodes reclaimed at peak, at once")
    return replace(
        day, pools=_each(day.pools, lambda pool: replace(pool, interruptions=(strike,)), _GPUS)
    )


def spot_reclaim_gpus(scale: float) -> Scenario:
    """The same where there are only GPUs."""
    made = spot_reclaim(scale)
    pools = tuple(pool for pool in made.pools if pool.name in _GPUS)
    return replace(
        made,
        name="spot-reclaim-gpus",
        about="only GPUs, a third of them reclaimed at peak, at once",
        pools=pools,
        initial=enough(pools, made.arrivals.rates(np.zeros(1))[0], 0.7),
        thresholds={pool.name: made.thresholds[pool.name] for pool in pools},
    )


def seed_rule(scale: float) -> Scenario:
    """Two pools, half each, 200 and 300 a minute and replica, which is beyond these replicas.

    One picture at a time, 0.92 s and 0.67 s each: at most 65 and 90 a minute.
    """
    speeds = {"gpu": one_at_a_time(0.92), "inf": one_at_a_time(0.67)}
    return _two_pools(scale, "seed-rule", "200 and 300 a minute, one picture at a time", speeds)


def seed_rule_batched(scale: float) -> Scenario:
    """The same with replicas that batch, and do 200 and 300 a minute within the objective.

    On ``gpu`` six at once take 1.8 s, and eight no less each; on ``inf`` eight take 1.6 s.
    """
    speeds = {
        "gpu": Speed({2: 92.0, 12: 180.0, 16: 240.0}, max_rows=16),
        "inf": Speed({2: 67.0, 16: 160.0}, max_rows=16),
    }
    return _two_pools(scale, "seed-rule-batched", "200 and 300 a minute, batched", speeds)


def steady(scale: float) -> Scenario:
    """Six hours at the mean rate of the days, which only chance moves."""
    day = _day(scale, "steady", "a constant rate for six hours")
    rate = _DAILY * scale / 86400
    return replace(
        day,
        arrivals=Poisson(rate),
        duration_s=6 * HOUR_S,
        initial=enough(day.pools, rate, 0.7),
    )


def whole_nodes(scale: float) -> Scenario:
    """Three times the days' traffic, and beside the units nodes of eight GPUs that batch.

    They come, and are paid for, as a whole: eight replicas that do eight pictures at a time in
    0.95 s. Speed and price are made up, such that a node pays only near the peak.
    """
    day = _day(3 * scale, "whole-nodes", "three times the traffic, and nodes of eight replicas")
    node = PoolSpec(
        name="p4",
        speed=Speed({2: 31.0, 4: 42.0, 8: 60.0, 16: 95.0}, max_rows=16),
        price_per_hour=_P4_PRICE,
        weight=10.0,
        max_replicas=8 * math.ceil(4 * max(1.0, scale)),
        per_node=8,
        provisioning_s=180.0,
    )
    pools = (*day.pools, node)
    return replace(
        day,
        pools=pools,
        initial=enough(pools, day.arrivals.rates(np.zeros(1))[0], 0.7),
        thresholds={**day.thresholds, "p4": 350.0},
    )


def fifty_pools(scale: float) -> Scenario:
    """Two of each unit in five regions, 10,000 pictures a second for ten minutes."""
    rate = 10_000 * scale
    specs = [
        replace(_unit(name, max(1.0, scale)), name=f"{name}-{lot}.{region}", max_replicas=400)
        for region in ("us-east", "us-west", "eu-west", "eu-north", "ap-south")
        for lot in ("a", "b")
        for name in _UNITS
    ]
    return Scenario(
        name="fifty-pools",
        about="50 pools in 5 regions, 10,000 pictures a second for 10 minutes",
        pools=tuple(specs),
        arrivals=Poisson(rate),
        duration_s=600.0,
        hold_s=_HOLD_S,
        initial=enough(specs, rate, 0.8),
        thresholds={spec.name: _COST_THRESHOLDS[spec.name.split("-")[0]] for spec in specs},
    )


SCENARIOS: dict[str, Callable[[float], Scenario]] = {
    "day-cost": day_cost,
    "day-equal": day_equal,
    "day-failover": day_failover,
    "ice-at-peak": ice_at_peak,
    "flash-crowd": flash_crowd,
    "spot-reclaim": spot_reclaim,
    "spot-reclaim-gpus": spot_reclaim_gpus,
    "seed-rule": seed_rule,
    "seed-rule-batched": seed_rule_batched,
    "whole-nodes": whole_nodes,
    "steady": steady,
    "fifty-pools": fifty_pools,
}


def enough(
    pools: Sequence[PoolSpec], pictures_per_s: float, utilisation: float, slo_s: float = 2.0
) -> dict[str, int]:
    """Replicas with which shares by weight use that part of each pool's rate, within its bounds.

    Args:
        pools: with weights.
        pictures_per_s: of all pools together.
        utilisation: between 0 and 1.
        slo_s: objective in seconds that the pools' rates keep.
    """
    total = sum(pool.weight for pool in pools)
    counts = {}
    for pool in pools:
        per_second = pool.speed.profile(DEFAULT_WORK, slo_s).images_per_minute / 60
        wanted = pictures_per_s * pool.weight / total / utilisation
        count = math.ceil(wanted / per_second) if per_second else pool.min_replicas
        counts[pool.name] = min(max(count, pool.min_replicas), pool.max_replicas)
    return counts


def _day(scale: float, name: str, about: str, *, equal: bool = False) -> Scenario:
    specs = [_unit(unit, scale) for unit in _UNITS]
    if equal:
        specs = [replace(spec, weight=1.0) for spec in specs]
    arrivals = _cosine(_DAILY * scale)
    return Scenario(
        name=name,
        about=about,
        pools=tuple(specs),
        arrivals=arrivals,
        hold_s=_HOLD_S,
        initial=enough(specs, arrivals.low, 0.7),
        thresholds=_COST_THRESHOLDS,
    )


def _two_pools(scale: float, name: str, about: str, speeds: Mapping[str, Speed]) -> Scenario:
    specs = [
        PoolSpec(
            name=pool,
            speed=speeds[pool],
            price_per_hour=price,
            min_replicas=2,
            max_replicas=_most(scale),
        )
        for pool, price in (("gpu", _UNITS["g5_eager"][1]), ("inf", _UNITS["inf2"][1]))
    ]
    # Four times the other days: else the least replicas are nearly enough.
    arrivals = _cosine(4 * _DAILY * scale)
    return Scenario(
        name=name,
        about=about,
        pools=tuple(specs),
        arrivals=arrivals,
        hold_s=_HOLD_S,
        initial=enough(specs, arrivals.low, 0.7),
        thresholds={"gpu": 200.0, "inf": 300.0},
    )


def _unit(name: str, scale: float) -> PoolSpec:
    seconds, price, weight, _, _ = _UNITS[name]
    return PoolSpec(
        name=name,
        speed=one_at_a_time(seconds),
        price_per_hour=price,
        weight=weight,
        max_replicas=_most(scale),
    )


def _most(scale: float) -> int:
    return math.ceil(60 * max(1.0, scale))


def _cosine(per_day: float) -> CosineDay:
    high = per_day / 86400 / ((1 + _LOW) / 2)
    return CosineDay(_LOW * high, high)


def _each(
    pools: Sequence[PoolSpec], change: Callable[[PoolSpec], PoolSpec], names: Sequence[str]
) -> tuple[PoolSpec, ...]:
    return tuple(change(pool) if pool.name in names else pool for pool in pools)
