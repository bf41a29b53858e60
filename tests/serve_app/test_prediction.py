"""Work, speed and predicted completion time."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.routing.observations import MIN_COUNT, WINDOW_S, Observations
from serve_app.routing.prediction import predict
from serve_app.routing.speed import Profile, Speed
from serve_app.routing.work import Load, Work
from tests.serve_app.conftest import snapshot
from tests.serve_app.test_dispatcher import request

CURVE = Speed({1: 10, 2: 12, 4: 16, 8: 32}, 8)
GUIDED = Work(2, 8)


@pytest.mark.parametrize(
    ("changes", "work"),
    [
        ({"guidance_scale": 1.0}, Work(1, 4)),
        ({"guidance_scale": 3.0}, Work(2, 4)),
        ({"width": 128, "height": 128}, Work(4, 4)),
        ({"strength": 0.5}, Work(1, 2)),
        ({"strength": 0.1}, Work(1, 1)),
    ],
)
def test_work_of_a_request(changes: dict[str, float], work: Work) -> None:
    changed = dataclasses.replace(request(), **changes)  # type: ignore[arg-type]
    size = (changed.width, changed.height)
    assert Work.of(changed, 64 * 64) == dataclasses.replace(work, size=size)


def test_an_empty_load_is_exactly_zero() -> None:
    load = Load()
    third = Work(1 / 3, 7)
    for _ in range(3):
        load.add(third)
    assert (load.requests, load.row_steps) == (3, pytest.approx(7))
    for _ in range(3):
        load.remove(third)
    assert load == Load(0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("rows", "ms"), [(0.5, 10), (1, 10), (1.5, 11), (3, 14), (6, 24), (8, 32), (16, 64)]
)
def test_step_cost_between_and_beyond_what_was_measured(rows: float, ms: float) -> None:
    assert CURVE.step_ms(rows) == ms


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="step_cost_ms: empty"):
        Speed({}, 8)


def test_a_profile_from_step_costs() -> None:
    assert CURVE.profile(GUIDED, 10.0) == Profile(0.096, pytest.approx(2 / 0.128 * 60))
    # Two at once take 128 ms, four 256 ms: with 100 ms only one at a time keeps the objective.
    assert CURVE.profile(GUIDED, 0.1).images_per_minute == pytest.approx(1 / 0.096 * 60)
    assert CURVE.profile(GUIDED, 0.05).images_per_minute == 0


def test_step_costs_from_a_profile() -> None:
    speed = Speed.of_profile(Profile(0.67, 105), GUIDED)
    assert (speed.max_rows, speed.step_ms(2)) == (2, pytest.approx(83.75))
    wide = Speed.of_profile(Profile(2.0, 240), GUIDED)  # 4 a second, each 2 s: 8 at once
    assert wide.max_rows == 16
    assert wide.profile(GUIDED, 2.0).images_per_minute == pytest.approx(240)


@pytest.mark.parametrize(
    ("load", "ready", "wait_s", "total_s"),
    [
        (Load(), 1, 0, 0.096),  # alone
        (Load(1, 2, 16), 1, 0, 0.128),  # joins the other at the next step
        (Load(3, 6, 48), 1, 0, 0.256),  # the last free rows
        (Load(4, 8, 64), 1, 0.064, 0.32),  # two rows of eight must leave: 2 * 8 * 32 / 8 ms
        (Load(8, 16, 128), 1, 0.32, 0.576),
        (Load(8, 16, 128), 2, 0.064, 0.32),  # half of it on each replica
    ],
)
def test_prediction(load: Load, ready: int, wait_s: float, total_s: float) -> None:
    pool = snapshot("a", ready=ready, speed=CURVE, load=load)
    assert predict(pool, GUIDED) == (pytest.approx(wait_s), pytest.approx(total_s))
    pool.correction = 3.0
    assert predict(pool, GUIDED) == (pytest.approx(3 * wait_s), pytest.approx(3 * total_s))


def test_a_picture_larger_than_the_batch_waits_for_those_before_it_only() -> None:
    pool = snapshot("a", speed=CURVE)
    assert predict(pool, Work(16, 1)) == (0, pytest.approx(0.064))


def test_an_unknown_speed_promises_nothing() -> None:
    assert predict(snapshot("a"), GUIDED) == (0, 0)
    assert predict(snapshot("a", ready=0, speed=CURVE), GUIDED) == (0, 0)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 50)), max_size=30))
def test_more_ahead_is_never_sooner(jobs: list[tuple[int, int]]) -> None:
    load, before = Load(), 0.0
    for rows, steps in jobs:
        wait_s = predict(snapshot("a", speed=CURVE, load=load), GUIDED).wait_s
        assert wait_s >= before - 1e-9 or steps < 50
        before = wait_s if steps == 50 else 0.0
        load.add(Work(rows, steps))


def test_correction_follows_what_happens_and_is_forgotten() -> None:
    seen = Observations()
    assert seen.correction(0.0) == 1.0
    for second in range(30):
        seen.answered(10.0, 1.0, float(second))
    assert seen.correction(29.0) == pytest.approx(10, rel=0.01)
    assert seen.correction(29.0 + WINDOW_S) == pytest.approx(10, rel=0.01)
    assert seen.correction(29.0 + WINDOW_S + 30) == pytest.approx(10**0.5, rel=0.01)
    assert seen.correction(29.0 + WINDOW_S + 600) == pytest.approx(1, abs=0.01)


def test_without_a_prediction_nothing_is_learnt() -> None:
    seen = Observations()
    seen.answered(10.0, 0.0, 0.0)
    assert seen.correction(0.0) == 1.0


def test_a_request_given_up_teaches_only_that_it_was_late() -> None:
    seen = Observations()
    seen.overdue(0.5, 1.0, 0.0)
    assert seen.correction(0.0) == 1.0
    seen.overdue(4.0, 1.0, 0.0)
    assert seen.correction(0.0) > 1.2


def test_percentiles_of_the_last_minute() -> None:
    seen = Observations()
    for index in range(MIN_COUNT - 1):
        seen.answered(1.0, 1.0, float(index))
    assert seen.observed(4.0) is None
    for index in range(100):
        seen.answered((index + 1) / 100, 1.0, 100.0 + index / 10)
    now = 110.0
    found = seen.observed(now)
    assert found is not None
    assert (found.pictures, found.p50_s, found.p95_s, found.p99_s) == (100, 0.5, 0.95, 0.99)
    assert found.images_per_minute == pytest.approx(600)
    assert seen.observed(now + 2 * WINDOW_S) is None
