"""The production planner as a scaler: its loop closed over the simulated service."""

from __future__ import annotations

import pytest

from loadtest.simulator import Scenario
from loadtest.simulator.arrivals import Poisson
from loadtest.simulator.mix import DEFAULT_WORK, Mix
from loadtest.simulator.planned import PlannerScaler
from serve_app.autoscaling.planner import PlannerOptions
from serve_app.routing.work import Work
from tests.loadtest.worlds import pool, ran, scenario

LONG = Work(DEFAULT_WORK.rows, 4 * DEFAULT_WORK.steps)


def elastic(mix: Mix, rate: float = 4.0) -> Scenario:
    """One pool whose replicas take 0.67 s for a default picture, 2.68 s for a long one."""
    return scenario(
        pool("inf2", seconds=0.67, min_replicas=0, max_replicas=40),
        arrivals=Poisson(rate),
        mix=mix,
        duration_s=3 * 3600.0,
        policy="latency",
        hold_s=300.0,
        late=True,
        initial={"inf2": 8},
    )


def test_a_share_of_long_requests_buys_no_replicas_that_do_not_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """15 % take longer than the objective even alone; by plain seconds the boost runs away."""
    share = 0.15
    mixed = elastic(Mix(((DEFAULT_WORK, 1 - share), (LONG, share))))
    scaler, naive = (PlannerScaler(PlannerOptions(slo_s=mixed.slo_s)) for _ in range(2))
    _, report = ran(mixed, scaler)
    with monkeypatch.context() as patched:
        patched.setattr(Work, "allowance", lambda work, default: 1.0)
        _, by_seconds = ran(mixed, naive)
    assert naive.last.boost == 2.0  # the trap is there
    # Short ones that wait behind a long one are late too, and more replicas do help those.
    assert scaler.last.boost < 1.6
    assert report.attainment >= 0.95 * (1 - share)
    assert report.dollars < 0.8 * by_seconds.dollars
    assert report.attainment > by_seconds.attainment - 0.02
