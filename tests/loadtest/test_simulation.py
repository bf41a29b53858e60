"""The simulated service: outcomes, shares, hardware that comes and goes, money."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.simulator import IceWindow, Interruption, Report, Scenario
from loadtest.simulator.arrivals import Constant, Poisson, TimeTrace
from loadtest.simulator.controllers import Controls
from loadtest.simulator.mix import Mix
from loadtest.simulator.planned import PlannerScaler
from serve_app.autoscaling.cheapest import _solve
from serve_app.autoscaling.planner import PlannerOptions
from serve_app.routing.router import WaitLimits
from serve_app.routing.speed import Speed
from serve_app.routing.work import Work
from tests.loadtest.worlds import Steps, Watcher, pool, ran, report, scenario

BATCHING = Speed({2: 50.0, 8: 90.0}, max_rows=8)


def eventful() -> Scenario:
    """A bit of everything."""
    return scenario(
        pool("a", weight=3, ice=(IceWindow(100, 250, cap=1),)),
        pool("b", speed=BATCHING, interruptions=(Interruption(200, 0.5),)),
        arrivals=Poisson(6),
        mix=Mix(((Work(2, 10), 0.7), (Work(1, 4), 0.2), (Work(4, 20), 0.1))),
        hold_s=20.0,
    )


GROW = Steps({10.0: {"a": 4, "b": 2}, 300.0: {"a": 1, "b": 3}, 500.0: {"a": 2}})


@pytest.mark.parametrize("planned", [False, True], ids=["steps", "planner"])
@pytest.mark.parametrize("policy", ["weighted", "latency", "failover", "cost", "capacity"])
def test_seed_decides_everything(policy: str, planned: bool) -> None:
    made = replace(eventful(), policy=policy)

    def run(seed: int) -> Report:
        _solve.cache_clear()  # what was solved before must not matter
        return report(made, PlannerScaler(PlannerOptions()) if planned else GROW, seed=seed)

    first = run(1)
    assert run(1) == first
    assert run(2) != first
    assert planned or first.retried > 0


def test_arrivals_do_not_depend_on_the_scaler() -> None:
    one, other = report(eventful(), GROW), report(eventful(), Steps({}))
    assert [s.row_steps_per_s for s in one.samples] == [s.row_steps_per_s for s in other.samples]
    assert one.p95_s != other.p95_s


targets = st.fixed_dictionaries({"a": st.integers(0, 6), "b": st.integers(0, 6)})


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([0.5, 3.0, 12.0]),
    hold_s=st.sampled_from([0.0, 15.0, 100.0]),
    limit=st.sampled_from([None, 1.0]),
    policy=st.sampled_from(["weighted", "latency"]),
    cap=st.sampled_from([None, 0, 2]),
    per_node=st.integers(1, 3),
    ice=st.tuples(st.integers(0, 200), st.integers(1, 200)),
    strikes=st.lists(st.tuples(st.integers(0, 300), st.sampled_from([0.3, 1.0])), max_size=3),
    table=st.dictionaries(st.integers(1, 298).map(float), targets, max_size=5),
    seed=st.integers(0, 5),
    late=st.booleans(),
    max_ongoing=st.sampled_from([None, 1, 3]),
)
def test_every_request_has_one_outcome_and_leaves_nothing_behind(
    rate, hold_s, limit, policy, cap, per_node, ice, strikes, table, seed, late, max_ongoing
) -> None:
    window = IceWindow(ice[0], ice[0] + ice[1], cap)
    interruptions = tuple(Interruption(at, fraction) for at, fraction in strikes)
    common = {"min_replicas": 0, "max_replicas": 6, "per_node": per_node}
    made = scenario(
        pool("a", ice=(window,), interruptions=interruptions, **common),
        pool("b", speed=BATCHING, interruptions=interruptions, **common),
        arrivals=Poisson(rate),
        duration_s=300.0,
        policy=policy,
        hold_s=hold_s,
        late=late,
        max_ongoing=max_ongoing,
        limits=WaitLimits(total=limit),
        initial={"a": 1},
    )
    simulation, made_report = ran(made, Steps({**table, 299.0: {"a": 1, "b": 1}}), seed)
    outcomes = made_report.answered + made_report.refused + made_report.unanswered
    assert outcomes == made_report.requests > 0
    assert sum(fleet.answers for fleet in simulation.fleets.values()) == made_report.answered
    for fleet in simulation.fleets.values():
        # What a fleet believes to have is what its nodes hold.
        state = fleet.snapshot.state
        assert fleet.load.requests == 0
        assert fleet.load.rows == fleet.load.row_steps == fleet.queued == 0
        assert state.draining == 0
        assert state.ready + state.starting == fleet.target
        assert fleet.nodes * per_node >= fleet.target - fleet.unlaunched


def test_shares_are_the_weights() -> None:
    weights = {"a": 40, "b": 20, "c": 15, "d": 10, "e": 15}
    made = scenario(
        *(pool(name, weight=weight) for name, weight in weights.items()),
        arrivals=Poisson(2),
        duration_s=5000,
    )
    got = report(made)
    for name, weight in weights.items():
        assert abs(got.shares[name] - weight / 100) * got.requests <= 1


def test_two_choices_prefer_the_less_loaded() -> None:
    """Two replicas at 80 %: with a blind choice each would be an M/D/1 with a wait of 1 s."""
    made = scenario(pool(min_replicas=2), arrivals=Poisson(3.2), duration_s=20_000)
    mean_s = report(made).mean_s
    assert mean_s is not None
    assert mean_s - 0.5 < 0.6


def test_the_admission_limit_refuses() -> None:
    # Four a second where two can be done: half is refused, and nobody waits longer.
    made = scenario(arrivals=Constant(4.0), limits=WaitLimits(total=2.0))
    got = report(made)
    assert got.refused == pytest.approx(got.requests / 2, rel=0.02)
    assert got.unanswered == 0
    assert got.p99_s is not None
    assert got.p99_s <= 2.0 + 0.5 + 0.5


# -- hardware that goes


def test_a_capacity_drop_loses_no_request_and_ends() -> None:
    made = scenario(
        pool("a", ice=(IceWindow(200, 320, cap=0),)),
        pool("b"),
        arrivals=Constant(5.0),
        initial={"a": 2, "b": 2},
    )
    got = report(made, Steps({1.0: {"a": 2, "b": 2}}))
    assert got.errors == 0
    assert got.retried >= 1
    # Back 50 s after the end: 30 for the node, 20 for the model.
    ready = {sample.at_s: sample.ready["a"] for sample in got.samples}
    assert [ready[at] for at in (180, 240, 300, 360, 420)] == [2, 0, 0, 0, 2]


def test_nodes_above_the_cap_go() -> None:
    made = scenario(pool(ice=(IceWindow(100, 400, cap=2),)), initial={"a": 3})
    ready = {sample.at_s: sample.ready["a"] for sample in report(made).samples}
    assert [ready[at] for at in (60, 120, 360, 480)] == [3, 2, 2, 3]


def test_present_nodes_stay_without_a_cap() -> None:
    made = scenario(pool(ice=(IceWindow(100, 400),)), initial={"a": 2})
    got = report(made, Steps({1.0: {"a": 2}, 150.0: {"a": 3}}))
    ready = {sample.at_s: sample.ready["a"] for sample in got.samples}
    assert [ready[at] for at in (120, 240, 360, 480)] == [2, 2, 2, 3]


def test_wanted_replicas_without_a_node_are_unplaced() -> None:
    made = scenario(pool(ice=(IceWindow(100, 400),)))
    watcher = Watcher()
    simulation, _ = ran(made, watcher)
    assert simulation.starved() == {"a": 0}

    class Asking(Watcher):
        def decide(self, now_s, view):
            super().decide(now_s, view)
            return {"a": 3} if now_s == 80 else {"a": 4} if now_s == 150 else {}

    asking = Asking()
    ran(made, asking)
    seen = {at: view.pools[0] for at, view in asking.seen.items()}
    assert [(seen[at].ready, seen[at].target, seen[at].unplaced) for at in (79, 90, 120, 140)] == [
        (1, 1, 0),
        (1, 3, 2),  # nodes on their way, granted before the window
        (1, 3, 0),  # loading
        (3, 3, 0),
    ]
    assert (seen[200].target, seen[200].unplaced) == (4, 1)
    assert (seen[460].ready, seen[460].unplaced) == (4, 0)


def test_an_interruption_takes_its_part_and_loses_no_request() -> None:
    strike = Interruption(205, 1 / 3)
    made = scenario(
        pool("a", interruptions=(strike,)),
        pool("b", interruptions=(strike,)),
        arrivals=Constant(11.0),
        initial={"a": 3, "b": 4},
    )
    watcher = Watcher()
    got = report(
        replace(made, pools=tuple(replace(p, min_replicas=3) for p in made.pools)), watcher
    )
    ready = {at: [view.ready for view in seen.pools] for at, seen in watcher.seen.items()}
    assert ready[204.0] == [3, 4]
    assert ready[206.0] == [2, 2]
    assert ready[260.0] == [3, 4]
    assert got.retried >= 2
    assert got.errors == 0


def test_without_another_pool_a_lost_request_waits_for_the_new_node() -> None:
    made = scenario(
        pool(interruptions=(Interruption(100.25, 1.0),)), arrivals=Constant(1.0), hold_s=60.0
    )
    simulation, got = ran(made)
    assert got.retried == 1
    assert got.errors == 0
    # That of second 100 is caught half-way, and first in line when the replica is ready at 150.25.
    assert max(simulation.latencies) == pytest.approx(50.75, abs=1e-3)


def test_lost_twice_is_an_error() -> None:
    made = scenario(
        pool("a", seconds=10, interruptions=(Interruption(5, 1.0),)),
        pool("b", seconds=10, interruptions=(Interruption(6, 1.0),)),
        arrivals=Constant(0.001),
        hold_s=100.0,
    )
    got = report(made)
    assert (got.requests, got.retried, got.unanswered, got.answered) == (1, 1, 1, 0)


# -- cold starts


@pytest.mark.parametrize(
    ("hold_s", "refused", "unanswered"),
    # Asked for at 10, ready at 60.5. One request a second from 0 on.
    [(0.0, 61, 0), (20.0, 0, 41), (100.0, 0, 0)],
)
def test_cold_start(hold_s: float, refused: int, unanswered: int) -> None:
    made = scenario(
        pool(min_replicas=0, provisioning_s=30.5), arrivals=Constant(1.0), hold_s=hold_s
    )
    simulation, got = ran(made, Steps({10.0: {"a": 1}}))
    assert (got.refused, got.unanswered) == (refused, unanswered)
    assert got.answered == got.requests - refused - unanswered
    if hold_s == 100.0:
        assert simulation.latencies[0] == pytest.approx(61.0, abs=1e-3)


def test_held_requests_respect_the_limits_and_their_order() -> None:
    """Eleven wait; the limit lets in two at a time, the next whenever one is done."""
    made = scenario(
        pool(min_replicas=0),
        arrivals=Constant(0.2),
        duration_s=52.0,
        hold_s=100.0,
        limits=WaitLimits(total=0.6),
    )
    simulation, got = ran(made, Steps({1.0: {"a": 1}}))
    assert got.errors == 0
    # Ready at 51; one came every 5 s and one is done every 0.5 s.
    expected = [51.5 + 0.5 * turn - 5 * turn for turn in range(11)]
    assert list(simulation.latencies) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("binding", "expected"),
    [({}, 20.0), ({"late": True}, 11.5), ({"max_ongoing": 1}, 11.0)],
)
def test_a_new_replica_helps_with_what_waits_unless_that_is_bound_to_another(
    binding: dict[str, Any], expected: float
) -> None:
    """Twenty at once, one second each; a second replica is there after two seconds.

    Through the gate goes half as much again as there is room for: the last is done half a turn
    later than with what Serve itself holds back.
    """
    one = pool(seconds=1.0, provisioning_s=1.0, start_s=1.0)
    made = scenario(one, arrivals=TimeTrace(np.zeros(20)), duration_s=60.0, **binding)
    simulation, _ = ran(made, Steps({1.0: {"a": 2}}))
    assert max(simulation.latencies) == pytest.approx(expected, abs=1.01)


# -- money


def test_whole_nodes_are_paid_for() -> None:
    made = scenario(
        pool(per_node=4, price_per_hour=2.0, min_replicas=5), arrivals=Constant(1), duration_s=3600
    )
    assert report(made).dollars == pytest.approx(2 * 4 * 2.0)


def test_a_node_is_paid_from_its_grant_until_its_last_replica_stops() -> None:
    made = scenario(pool(per_node=2, price_per_hour=3600.0), arrivals=Constant(0.003))
    # One node throughout. Another for the third replica from 100 on, not ready before 150; when two
    # are wanted again at 200, the node with one replica is emptied.
    got = report(made, Steps({100.0: {"a": 3}, 200.0: {"a": 2}}))
    assert got.dollars == pytest.approx(2 * (600 + 100))


def test_draining_ends_the_node_when_the_work_is_done() -> None:
    made = scenario(
        pool(seconds=40, price_per_hour=3600.0, min_replicas=0),
        pool("b", weight=1e-9),
        initial={"a": 1, "b": 1},
        arrivals=Constant(1 / 200),
        duration_s=100.0,
    )
    # The picture of second 0 is done at 40; its replica is wanted no more from 10 on.
    got = report(made, Steps({10.0: {"a": 0}}))
    assert got.answered == 1
    assert got.dollars == pytest.approx(40 + 100 / 3600)
    assert got.changes == {"a": 1, "b": 0}


# -- what scalers and controllers see


def test_demand_counts_the_refused() -> None:
    watcher = Watcher()
    ran(scenario(pool(min_replicas=0), arrivals=Constant(2.0)), watcher)
    demand = watcher.seen[100.0].demand
    assert demand.pictures_per_s == pytest.approx(2.0, rel=0.05)
    assert demand.row_steps_per_s == pytest.approx(40.0, rel=0.05)
    assert demand.p95_s is None
    assert demand.backlog == 0


def test_backlog_is_what_is_held_and_queued() -> None:
    watcher = Watcher()
    made = scenario(pool(min_replicas=0), arrivals=Constant(2.0), hold_s=100.0)
    ran(made, watcher)
    assert watcher.seen[20.5 // 1].demand.backlog in (40 * 20, 40 * 20 + 20)

    watcher = Watcher()
    ran(scenario(arrivals=Constant(4.0), duration_s=60), watcher)
    # Two a second too many for 50 s, less the one in the batch.
    assert watcher.seen[50.0].demand.backlog == pytest.approx(20 * 99, rel=0.03)
    assert watcher.seen[50.0].traffic["a"].ongoing == pytest.approx(100, rel=0.03)


def test_traffic_and_capacity() -> None:
    watcher = Watcher()
    ran(scenario(pool("a", weight=3), pool("b"), arrivals=Constant(2.0)), watcher)
    seen = watcher.seen[300.0]
    assert seen.traffic["a"].arrivals_per_s == pytest.approx(1.5, rel=0.03)
    assert seen.traffic["b"].images_per_s == pytest.approx(0.5, rel=0.05)
    assert [view.capacity for view in seen.pools] == [40.0, 40.0]
    assert seen.demand.p95_s == pytest.approx(0.5, abs=0.51)


def test_p95_is_of_the_last_minute() -> None:
    """A crowd in the first 50 s is forgotten once its answers are a minute old."""
    made = scenario(
        pool("a", seconds=1.0, interruptions=(Interruption(60.5, 1.0),)),
        arrivals=Constant(0.5),
        hold_s=100,
    )
    watcher = Watcher()
    ran(made, watcher)
    p95 = {at: seen.demand.p95_s for at, seen in watcher.seen.items()}
    assert p95[59.0] == pytest.approx(1.0, abs=1e-3)
    assert p95[130.0] is not None
    assert p95[130.0] > 40
    assert p95[300.0] == pytest.approx(1.0, abs=1e-3)


def test_a_controller_can_change_weights_and_policy() -> None:
    class Turn:
        period_s = 100.0

        def control(self, now_s: float, controls: Controls) -> None:
            if now_s == 100:
                controls.set_weights({"a": 0.0})
            if now_s == 300:
                controls.set_policy("capacity")

    made = scenario(pool("a"), pool("b"), arrivals=Constant(1.0), controller=Turn)
    got = report(made)
    # 50 of the first 100, none of 200, half of 300.
    assert got.shares["a"] * got.requests == pytest.approx(200, abs=2)
