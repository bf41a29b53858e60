"""From break points to weights, targets and profiles that the service takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from loadtest.breaking.capacity import Estimate
from loadtest.breaking.finder import Finder, FinderOptions, Found
from loadtest.breaking.plot import plot
from loadtest.breaking.pool import curve_rate, places
from loadtest.breaking.proposal import (
    ongoing_at,
    profile_of,
    propose,
    propose_weights,
    share_out,
)
from loadtest.breaking.result import Result, settings_yaml
from loadtest.breaking.trial import Trial
from loadtest.outcome import Answer, Outcome
from serve_app.live import LiveSettings
from serve_app.routing.speed import Profile, Speed
from serve_app.routing.work import Work
from serve_app.validation import parse
from tests.loadtest.painters import SimulatedPool, one_at_a_time, shown

# The AWS sample's Table 1: pictures a minute, US dollars an hour; and its seconds a picture.
SAMPLE = {
    "inf2": (105, 0.7582, 0.67),
    "trn1": (130, 1.3438, 0.51),
    "g5_compiled": (90, 1.0060, 0.68),
    "g6": (61, 0.8048, 0.96),
    "g5_eager": (60, 1.0060, 0.92),
}
PROFILES = {name: Profile(latency, rate) for name, (rate, _, latency) in SAMPLE.items()}
SHOWN = {name: shown(name, price_per_hour=price) for name, (_, price, _) in SAMPLE.items()}


@pytest.mark.parametrize(
    ("slo_s", "expected"),
    [
        # As docs/autoscaling.md has the shares of policy cost, in whole weights.
        (1.0, {"inf2": 34, "trn1": 29, "g5_compiled": 18, "g6": 11, "g5_eager": 8}),
        (0.9, {"inf2": 41, "trn1": 36, "g5_compiled": 23, "g6": 0, "g5_eager": 0}),
    ],
)
def test_weights_are_the_cost_policys_shares(slo_s: float, expected: dict[str, int]) -> None:
    weights = propose_weights(PROFILES, SHOWN, slo_s)
    assert sum(weights.values()) == 100
    assert weights == pytest.approx(expected, abs=1)
    assert all(weight == int(weight) for weight in weights.values())


def test_no_weights_are_proposed_where_all_are_late() -> None:
    assert propose_weights(PROFILES, SHOWN, 0.3) == {}


def test_measured_pools_share_what_they_had() -> None:
    pools = {
        "a": shown("a", weight=60.0),
        "b": shown("b", weight=20.0),
        "other": shown("other", weight=20.0),
    }
    profiles = {"a": Profile(0.5, 60), "b": Profile(0.5, 60)}
    assert propose_weights(profiles, pools, 1.0) == {"a": 40, "b": 40, "other": 20}


def test_without_every_price_pools_are_weighed_by_what_they_do_in_time() -> None:
    pools = {"a": shown("a", price_per_hour=None), "b": shown("b", price_per_hour=9.0)}
    profiles = {"a": Profile(0.5, 30), "b": Profile(0.5, 90)}
    assert propose_weights(profiles, pools, 1.0) == {"a": 25, "b": 75}


def test_shares_are_whole_where_the_sum_is_and_none_vanishes() -> None:
    assert share_out({"a": 1, "b": 1, "c": 1}, 100) == {"a": 34, "b": 33, "c": 33}
    assert share_out({"a": 1e6, "b": 1, "c": 0}, 100) == {"a": 99, "b": 1, "c": 0}
    assert share_out({"a": 1, "b": 3}, 0.5) == {"a": 0.125, "b": 0.375}


def trial(rate: float, painting_s: float, served: int) -> Trial:
    """Ten seconds in which so many were served, each so long in the batch."""
    at = [2.5 + 7.5 * index / served for index in range(served)]
    answer = Answer("a", "", painting_s)
    return Trial(rate, 10.0, [Outcome(one, one, one, answer) for one in at])


def found(*trials: Trial, alone_s: float = 0.4, capacity: float = 8.0) -> Found:
    return Found(
        alone_s=alone_s,
        capacity=Estimate(capacity, capacity - 0.1, capacity + 0.1),
        break_point=Estimate(4.0, 3.0, 5.0),
        limited_by="latency",
        trials=trials,
    )


def test_a_profile_is_the_capacity_while_batches_keep_the_objective() -> None:
    quick = found(trial(4, 0.4, 30), trial(10, 0.9, 60))
    assert profile_of(quick, replicas=2, slo_s=1.0) == Profile(0.4, 240.0)


def test_a_profile_leaves_out_what_only_too_large_batches_do() -> None:
    # At 10 a second batches are so large that a picture takes 2 s; at 4 a second they are not.
    slow = found(trial(4, 0.4, 30), trial(10, 2.0, 60))
    assert profile_of(slow, replicas=1, slo_s=1.0) == Profile(0.4, 240.0)
    assert profile_of(found(alone_s=1.4), replicas=1, slo_s=1.0) == Profile(1.4, 480.0)


@pytest.mark.parametrize(
    ("costs", "slo_s", "full"),
    [
        ({2: 50.0}, 0.9, True),  # one at a time: breaks at a quarter of what it can
        ({2: 50.0, 16: 100.0}, 1.05, True),  # a full batch just keeps the objective
        ({2: 50.0, 16: 100.0}, 0.7, False),  # full ones take 1 s
    ],
)
async def test_a_measured_profile_means_what_a_calibrated_one_means(
    costs: dict[int, float], slo_s: float, full: bool
) -> None:
    speed, work = Speed(costs, max(costs)), Work(2, 10)
    options = FinderOptions(slo_s=slo_s, budget_s=300.0, at_once=max(costs) // 2)
    measured = await Finder(SimulatedPool(speed, work), options).find()
    profile, calibrated = profile_of(measured, 1, slo_s), speed.profile(work, slo_s)
    assert profile is not None
    assert measured.break_point is not None
    assert profile.latency_s == pytest.approx(calibrated.latency_s)
    # The break point has waiting in it.
    breaks = measured.break_point.value * 60
    assert breaks < 0.8 * calibrated.images_per_minute
    if full:
        assert profile.images_per_minute == pytest.approx(calibrated.images_per_minute, rel=0.05)
    else:  # no trial has had just the best batch
        assert breaks < profile.images_per_minute < 1.05 * calibrated.images_per_minute


def test_costs_and_targets() -> None:
    made = propose(
        found(trial(4, 0.4, 30)),
        shown("a", price_per_hour=7.2, ready_replicas=2),
        slo_s=1.0,
        weight=40.0,
        curve_per_s=8.4,
    )
    assert made.capacity == Estimate(240.0, pytest.approx(237.0), pytest.approx(243.0))
    assert made.break_point == Estimate(120.0, 90.0, 150.0)
    # Two replicas at $7.2 an hour, 8 pictures a second.
    assert made.dollars_per_1000 == pytest.approx(14.4 / 3600 / 8 * 1000)
    assert made.dollars_per_1000_at_break == pytest.approx(14.4 / 3600 / 4 * 1000)
    assert made.target_images_per_minute == 120.0
    # The outcomes took no time at all.
    assert made.target_ongoing_requests == 0.0
    assert made.curve_images_per_minute == pytest.approx(252.0)


def test_requests_under_way_follow_littles_law() -> None:
    def lasting(rate: float, seconds: float) -> Trial:
        due = [5.0 + index / 10 for index in range(20)]
        return Trial(rate, 10.0, [Outcome(at, at, at + seconds, Answer("a")) for at in due])

    measured = found(lasting(3.8, 0.75), lasting(12.0, 9.0))
    assert ongoing_at(measured, 4.0) == pytest.approx(3.0)
    assert ongoing_at(found(Trial(1.0, 10.0, [])), 4.0) is None


def test_what_a_curve_promises() -> None:
    pool = shown(
        "a", measured={"max_rows": 8, "step_cost_ms": {"2": 50.0, "8": 100.0, "16": 250.0}}
    )
    assert places(pool) == 4
    assert curve_rate(pool, steps=10) == pytest.approx(4.0)
    assert curve_rate(pool, steps=None) is None
    assert places(shown("a", ready_replicas=3, measured=None)) == 3
    assert curve_rate(shown("a", measured=None), steps=10) is None


async def test_a_result_becomes_files_that_the_service_takes(tmp_path: Path) -> None:
    options = FinderOptions(slo_s=1.2, budget_s=60.0)
    measured = await Finder(one_at_a_time(0.5), options).find()
    profile = profile_of(measured, 1, 1.2)
    assert profile is not None
    proposal = propose(measured, shown("a"), slo_s=1.2, weight=100.0, curve_per_s=2.0)
    changes = {
        "slo_s": 1.2,
        "weights": {"a": 100.0},
        "profiles": {"a": {"latency_s": profile.latency_s, "images_per_minute": 120.0}},
    }
    result = Result(
        load={"slo_ms": 1200.0, "percentile": 95.0},
        found={"a": measured},
        proposals={"a": proposal},
        changes=changes,
        emulated=frozenset({"a"}),
        failed={},
        problems=(),
        partial=False,
    )
    text = settings_yaml({"policy": "cost", **changes}, ["of a test"])
    assert text.startswith("# of a test\n")
    live = parse(LiveSettings, yaml.safe_load(text), what="user_config")
    assert live.profiles["a"].images_per_minute == 120
    told = json.loads(json.dumps(result.as_json()))["pools"]["a"]
    assert told["emulated"]
    assert [point["rate_per_s"] for point in told["curve"]] == [one.rate for one in measured.trials]
    plot(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    table = result.table()
    assert table.row_count == 1
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["calibrated, /min"] == ["120.0"]
    assert cells["$ per 1,000"] == [f"{proposal.dollars_per_1000:.3f}"]
    assert cells["weight"] == ["100"]
