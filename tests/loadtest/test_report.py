"""A report's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.figures import percentiles, quantile
from loadtest.fleet import Fleet
from loadtest.host import HostLoad
from loadtest.outcome import INTERRUPTED, TIMEOUT, Answer, Outcome
from loadtest.plot import plot
from loadtest.report import Report, make_report
from tests.loadtest.painters import shown

IDLE = HostLoad(10.0, 0.001)


def fleet(seconds: float = 36.0, missed: int = 0) -> Fleet:
    watched = Fleet(missed=missed)
    pools = {"pools": [shown("a", price_per_hour=3.6, ready_replicas=2), shown("b", emulated=True)]}
    watched.add(pools, 0.0)
    pools["pools"][0]["ready_replicas"] = 2
    watched.add(pools, seconds)
    return watched


def outcomes() -> list[Outcome]:
    """Nine pictures by a, one by b, of which one left 2 s late; three failures, one given up."""
    found = [Outcome(at, at, at + 1.0, Answer("a", "", 0.5)) for at in range(9)]
    found.append(Outcome(9.0, 11.0, 14.0, Answer("b", "", 0.5)))
    found += [Outcome(9.5, 9.5, 9.6, Answer(error="429 overloaded"))] * 2
    found.append(Outcome(9.6, 9.6, 12.0, Answer(error=TIMEOUT)))
    found.append(Outcome(9.7, 9.7, 12.0, Answer(error=INTERRUPTED)))
    return found


def report(host: HostLoad = IDLE, missed: int = 0) -> Report:
    return make_report(
        {"shape": "constant"},
        outcomes(),
        fleet(missed=missed),
        host,
        planned=20,
        due_s=10.0,
        partial=True,
    )


def test_counts_rates_and_errors() -> None:
    told = report()
    assert (told.planned, told.sent, told.pictures, told.failed, told.interrupted) == (
        20,
        14,
        10,
        3,
        1,
    )
    assert told.errors == {"429 overloaded": 2, "timeout": 1}
    assert told.seconds == 14.0
    assert told.offered_per_s == 1.4
    assert told.served_per_s == pytest.approx(10 / 14)
    assert told.partial


def test_what_was_waited_for_in_vain_is_said_beside_the_percentiles() -> None:
    (problem,) = report().problems
    assert "1 of 14 requests were waited for in vain" in problem
    refused = [Outcome(0.0, 0.0, 0.1, Answer(error="429 overloaded"))]
    late = [Outcome(0.0, 0.0, 9.0, Answer(error="504 deadline_exceeded"))]
    for outcomes, words in ((refused, []), (late, ["1 of 1 requests"])):
        told = make_report({}, outcomes, Fleet(), IDLE, planned=1, due_s=1.0, partial=False)
        assert len(told.problems) == len(words)
        assert all(word in told.problems[0] for word in words)


def test_latency_is_told_with_and_without_the_clients_own_lateness() -> None:
    told = report().latency_s
    assert told["corrected"]["p50"] == told["uncorrected"]["p50"] == 1.0
    assert told["corrected"]["p99"] == 5.0
    assert told["uncorrected"]["p99"] == 3.0


def test_shares_and_costs() -> None:
    pools = report().pools
    assert (pools["a"].share, pools["b"].share) == (0.9, 0.1)
    # Two replicas at $3.6 an hour for 36 s.
    assert pools["a"].dollars == pytest.approx(0.072)
    assert pools["a"].dollars_per_1000 == pytest.approx(0.072 / 9 * 1000)
    assert pools["a"].mean_replicas == 2
    assert pools["b"].emulated
    assert not pools["a"].emulated


def test_replicas_that_came_meanwhile_are_paid_for_while_they_are_there() -> None:
    watched = Fleet()
    for ready, passed_s in ((0, 0.0), (2, 10.0), (2, 10.0)):
        watched.add({"pools": [shown("a", ready_replicas=ready, price_per_hour=None)]}, passed_s)
    assert watched.replica_s == {"a": 30.0}
    assert watched.mean_replicas("a") == 1.5
    assert watched.dollars("a") is None


def test_what_spoils_the_figures_is_said() -> None:
    told = report(HostLoad(97.0, 0.2), missed=3).problems
    assert "97 % busy" in told[0]
    assert "200 ms late" in told[0]
    assert "3 times" in told[1]


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentiles(values) == {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
    assert quantile([], 50) is None
    assert quantile([3.0], 99) == 3.0


def test_a_report_becomes_json_and_a_picture(tmp_path: Path) -> None:
    told = report()
    assert json.loads(json.dumps(told.as_json()))["pools"]["a"]["pictures"] == 9
    plot(told, outcomes(), tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_load_without_any_answer_is_reported(tmp_path: Path) -> None:
    told = make_report({"shape": "x"}, [], Fleet(), IDLE, planned=3, due_s=0.0, partial=True)
    assert told.pictures == 0
    assert told.latency_s["corrected"]["p50"] is None
    plot(told, [], tmp_path / "report.png")
