"""Each baseline scaler as a table; the oracle against brute force."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import pytest

from loadtest.simulator import (
    FixedScaler,
    Observation,
    OngoingScaler,
    PoolTraffic,
    Scaler,
    ThresholdScaler,
    oracle_cost,
)
from loadtest.simulator.controllers import SampleFailover
from serve_app.autoscaling.views import Demand, PoolView


def seen(
    target: int,
    *,
    answered: float = 0.0,
    offered: float = 0.0,
    ongoing: int = 0,
    least: int = 1,
    ready: int | None = None,
) -> Observation:
    """One pool; rates are per minute."""
    view = PoolView(
        name="a",
        ready=target if ready is None else ready,
        target=target,
        capacity=40,
        price=1,
        min_replicas=least,
        max_replicas=20,
    )
    traffic = PoolTraffic(offered / 60, ongoing, answered / 60)
    return Observation([view], Demand(row_steps_per_s=0, pictures_per_s=0), {"a": traffic})


def played(scaler: Scaler, *steps: tuple[float, Observation]) -> list[int]:
    return [scaler.decide(now, view)["a"] for now, view in steps]


@pytest.mark.parametrize(
    ("per_minute", "target", "wanted"),
    [
        (100, 1, 1),
        (109, 1, 1),  # within the tolerance
        (111, 1, 2),
        (219, 2, 2),
        (221, 2, 3),
        (1000, 2, 6),  # at most four more
        (2000, 8, 16),  # or double
        (5000, 16, 20),  # the most there may be
        (0, 1, 1),  # the least
        (5, 0, 1),  # from none
        (0, 0, 1),
    ],
)
def test_threshold_up(per_minute: float, target: int, wanted: int) -> None:
    scaler = ThresholdScaler({"a": 100})
    assert played(scaler, (15, seen(target, answered=per_minute))) == [wanted]


def test_threshold_down_waits_for_the_highest_wish_of_five_minutes() -> None:
    scaler = ThresholdScaler({"a": 100})
    steps = [
        (0.0, seen(5, answered=500)),
        (15.0, seen(5, answered=300)),
        (285.0, seen(5, answered=100)),
        (300.0, seen(5, answered=100)),
        (315.0, seen(3, answered=100)),
        (600.0, seen(3, answered=100)),
    ]
    assert played(scaler, *steps) == [5, 5, 5, 3, 1, 1]


def test_threshold_down_never_goes_up() -> None:
    """A higher wish of the past holds the fleet; it does not enlarge it."""
    scaler = ThresholdScaler({"a": 100})
    assert played(scaler, (0, seen(2, answered=800)), (15, seen(4, answered=100))) == [6, 4]


@pytest.mark.parametrize(("offered", "wanted"), [(False, 1), (True, 3)])
def test_threshold_counts_answers_or_arrivals(offered: bool, wanted: int) -> None:
    scaler = ThresholdScaler({"a": 100}, offered=offered)
    assert played(scaler, (15, seen(1, answered=90, offered=290))) == [wanted]


def test_ongoing_up_after_half_a_minute() -> None:
    scaler = OngoingScaler()
    steps = [(float(at), seen(1, ongoing=9)) for at in range(5, 40, 5)]
    assert played(scaler, *steps) == [1, 1, 1, 1, 1, 1, 5]


def test_ongoing_down_after_ten_minutes_without_interruption() -> None:
    scaler = OngoingScaler(look_back_s=5.0)

    def step(at: int) -> tuple[float, Observation]:
        return at, seen(4, ongoing=8 if at == 300 else 3)

    got = dict(zip(range(0, 1000, 5), played(scaler, *map(step, range(0, 1000, 5))), strict=True))
    # Interrupted at 300, so it counts from 305 on.
    assert {at for at, target in got.items() if target == 2} == {905}
    assert got[900] == 4


@pytest.mark.parametrize(
    ("view", "after_s", "wanted"),
    [
        (seen(0, ongoing=3, least=0), 0.0, 2),  # from none: at once
        (seen(0, ongoing=0, least=0), 0.0, 0),
        (seen(1, ongoing=9, ready=0), 60.0, 1),  # starting: nothing to measure
        (seen(1, ongoing=0, least=0), 600.0, 0),
        (seen(5, ongoing=0, least=0), 600.0, 1),  # the last one only goes by itself
        (seen(5, ongoing=200), 30.0, 20),
        (seen(5, ongoing=10), 6000.0, 5),
    ],
)
def test_ongoing_bounds_and_zero(view: Observation, after_s: float, wanted: int) -> None:
    scaler = OngoingScaler()
    scaler.decide(0.0, view)
    assert scaler.decide(after_s, view) == {"a": wanted}


def test_fixed() -> None:
    assert played(FixedScaler({"a": 7}), (0, seen(1)), (60, seen(7))) == [7, 7]


def test_oracle_is_the_cheapest_fleet_minute_by_minute() -> None:
    common = {"ready": 0, "target": 0}
    pools = [
        PoolView(name="a", capacity=30, price=0.76, max_replicas=3, min_replicas=1, **common),
        PoolView(name="b", capacity=40, price=1.34, max_replicas=4, per_node=2, **common),
        PoolView(name="c", capacity=21, price=0.8, max_replicas=5, **common),
    ]
    demand = [0.0, 10.0, 75.0, 130.0, 200.0, 349.0, 355.0]

    def price(counts: tuple[int, ...]) -> float:
        return sum(
            pool.price * pool.per_node * math.ceil(count / pool.per_node)
            for pool, count in zip(pools, counts, strict=True)
        )

    fleets = list(product(range(1, 4), (0, 2, 4), range(6)))
    expected = sum(
        min(price(c) for c in fleets if c[0] * 30 + c[1] * 40 + c[2] * 21 >= wanted)
        for wanted in demand
    )
    assert oracle_cost(pools, demand) == pytest.approx(expected / 60)
    assert oracle_cost(pools, demand, bucket_s=3600) == pytest.approx(expected)


class Desk:
    """Controls that remember."""

    def __init__(self) -> None:
        self.short = 0
        self.now: dict[str, float] = {"a": 40.0, "b": 20.0}

    def starved(self) -> Mapping[str, int]:
        return {"a": 0, "b": self.short}

    def weights(self) -> Mapping[str, float]:
        return self.now

    def set_weights(self, weights: Mapping[str, float]) -> None:
        self.now = dict(weights)

    def set_policy(self, name: str) -> None:
        raise AssertionError


def test_failover_to_equal_weights_and_back() -> None:
    desk, failover = Desk(), SampleFailover()
    weights = []
    for short in (0, 1, 2, 0, 0, 1):
        desk.short = short
        failover.control(0.0, desk)
        weights.append(list(desk.now.values()))
    cost, equal = [40, 20], [1, 1]
    assert weights == [cost, equal, equal, cost, cost, equal]
    assert failover.period_s == 300
