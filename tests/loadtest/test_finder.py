"""The break point of pools whose capacity is known: simulated ones, on a simulated clock."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.breaking.capacity import Estimate, capacity_draws, stretches
from loadtest.breaking.finder import Finder, FinderOptions, Found, NothingPainted
from loadtest.breaking.point import break_draws, independent
from loadtest.breaking.trial import Trial
from loadtest.outcome import Answer, Outcome
from serve_app.routing.speed import Speed
from serve_app.routing.work import Work
from tests.loadtest.painters import SimulatedPool, one_at_a_time
from tests.loadtest.queueing import md1_break

SECONDS = 0.5


async def find(pool: SimulatedPool, **changes: object) -> Found:
    values: dict[str, object] = {"slo_s": 2.0, "budget_s": 300.0} | changes
    return await Finder(pool, FinderOptions(**values)).find()  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
async def test_the_capacity_of_one_at_a_time_is_found_within_a_tenth(seed: int) -> None:
    found = await find(one_at_a_time(SECONDS), seed=seed, budget_s=60.0)
    assert found.capacity is not None
    assert found.capacity.value == pytest.approx(1 / SECONDS, rel=0.1)
    assert found.capacity.low <= 1 / SECONDS * 1.001
    assert found.capacity.high >= 1 / SECONDS * 0.999
    assert found.alone_s == pytest.approx(SECONDS)


@pytest.mark.parametrize("seed", range(3))
async def test_the_capacity_of_a_batching_replica_is_found_within_a_tenth(seed: int) -> None:
    """Sixteen rows, eight requests, cost twice what one costs: four times the throughput."""
    speed = Speed({2: 50.0, 16: 100.0}, 16)
    pool = SimulatedPool(speed, Work(2, 10))
    found = await find(pool, at_once=8, seed=seed)
    assert found.capacity is not None
    assert found.capacity.value == pytest.approx(8.0, rel=0.1)
    assert found.capacity.low <= 8.0 <= found.capacity.high
    assert found.alone_s == pytest.approx(0.5)


@pytest.mark.parametrize(("slo_s", "budget_s"), [(0.9, 600.0), (1.5, 6000.0)])
async def test_the_bounds_of_the_break_point_hold_what_queueing_says(
    slo_s: float, budget_s: float
) -> None:
    truth = md1_break(SECONDS, slo_s, 90)
    found = [
        await find(one_at_a_time(SECONDS), slo_s=slo_s, percent=90.0, budget_s=budget_s, seed=seed)
        for seed in range(6)
    ]
    points = [one.break_point for one in found if one.break_point is not None]
    assert len(points) == 6
    # 95 % bounds: of six one may miss.
    assert sum(point.low <= truth <= point.high for point in points) >= 5
    assert np.median([point.value for point in points]) == pytest.approx(truth, rel=0.25)
    # And they say something: not all below the capacity.
    assert all(point.high - point.low < 0.5 / SECONDS for point in points)


async def test_a_pool_too_slow_alone_breaks_at_nothing() -> None:
    found = await find(one_at_a_time(SECONDS), slo_s=0.4)
    assert found.limited_by == "latency, even alone"
    assert found.break_point == Estimate(0.0, 0.0, 0.0)
    assert found.capacity is not None
    assert found.capacity.value == pytest.approx(2.0, rel=0.1)


async def test_an_objective_that_is_never_missed_leaves_the_capacity() -> None:
    found = await find(one_at_a_time(SECONDS), slo_s=60.0)
    assert found.limited_by == "throughput"
    assert found.break_point is not None
    assert found.break_point.value == pytest.approx(2.0, rel=0.2)
    assert found.break_point.high == pytest.approx(2.0, rel=0.01)


async def test_the_time_is_bounded() -> None:
    pool = one_at_a_time(SECONDS)
    await find(pool, budget_s=100.0)
    # A trial under way is brought to its end, its queue drained.
    assert 60 < pool.now() < 125


async def test_refusals_are_told_and_count_as_late() -> None:
    pool = SimulatedPool(Speed({2: 50.0}, 2), Work(2, 10), refusing=4)
    found = await find(pool, slo_s=30.0)
    assert any("got no picture" in note for note in found.notes)
    assert found.break_point is not None
    assert found.capacity is not None
    assert found.capacity.value == pytest.approx(2.0, rel=0.1)
    # A quarter is refused at any load: p95 never holds.
    assert found.break_point.value < 0.4 * found.capacity.value


async def test_a_pool_that_paints_nothing_is_told_apart() -> None:
    with pytest.raises(NothingPainted, match="429 overloaded"):
        await find(SimulatedPool(Speed({2: 50.0}, 2), Work(2, 10), refusing=1))


def outcome(sent: float, done: float, error: str = "") -> Outcome:
    return Outcome(sent, sent, done, Answer("" if error else "a", error))


def test_only_time_in_which_more_waits_than_fits_counts_as_saturated() -> None:
    # Ten at once, answered one a second; then a lull; then single ones.
    busy = [outcome(0.0, 1.0 + index) for index in range(10)]
    single = [outcome(100.0 + 10 * index, 101.0 + 10 * index) for index in range(10)]
    refused = [outcome(0.0, 0.1, "429 overloaded") for _ in range(50)]
    trial = Trial(1.0, 200.0, [*busy, *single, *refused])
    (gaps,) = stretches(trial, at_once=1)
    assert gaps.tolist() == [1.0] * 9
    draws = capacity_draws([trial], 1, np.random.default_rng(0))
    assert draws is not None
    assert Estimate.of(draws) == Estimate(1.0, 1.0, 1.0)
    # A spell of a busy machine, shorter than the rest, does not count.
    spell = Trial(
        1.0, 20.0, [outcome(0.0, index + (5 if index > 12 else 0)) for index in range(20)]
    )
    draws = capacity_draws([spell], 1, np.random.default_rng(0))
    assert draws is not None
    assert Estimate.of(draws).value == 1.0
    assert capacity_draws([Trial(1.0, 200.0, single)], 1, np.random.default_rng(0)) is None


def test_requests_that_wait_in_spells_count_for_fewer() -> None:
    def trial(*latencies: float) -> Trial:
        due = range(100, 100 + len(latencies))
        pairs = zip(due, latencies, strict=True)
        return Trial(1.0, 200.0, [outcome(at, at + seconds) for at, seconds in pairs])

    assert independent(trial(*[1.0, 2.0] * 20)) == 40
    assert independent(trial(*[1.0] * 20, *[2.0] * 20)) < 5
    assert independent(trial(*[1.0] * 7)) == 7


def test_more_requests_narrow_the_bounds() -> None:
    def bounds(count: int) -> Estimate:
        trials = [
            Trial(
                rate,
                count,
                [outcome(at, at + (3 if at * 7 % 20 < late else 1)) for at in range(count)],
            )
            for rate, late in ((0.3, 0), (0.6, 1), (0.9, 10))
        ]
        rng = np.random.default_rng(0)
        draws = break_draws(trials, np.ones(1000), slo_s=2.0, percent=95.0, rng=rng)
        return Estimate.of(draws)

    few, many = bounds(20), bounds(400)
    assert many.high - many.low < 0.6 * (few.high - few.low)
    assert many.low < 0.6 < many.high
