"""From word on the board to targets, and back: the decider, the meter, the reporter, holding."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.autoscaling.board import STALE_S, Board
from serve_app.autoscaling.decider import Decider, demand_of, known, restored
from serve_app.autoscaling.meter import DemandMeter
from serve_app.autoscaling.policy import AutoscalingPolicy, means
from serve_app.autoscaling.presence import PoolNeed, Seen, pool_needs
from serve_app.autoscaling.reporter import Reporter, demand_report
from serve_app.routing.holding import Holding
from serve_app.routing.snapshot import PoolSnapshot, PoolState
from serve_app.routing.speed import Profile, Speed
from serve_app.routing.work import Load, Work
from serve_app.telemetry.autoscaling import RayAutoscalingMetrics
from tests.serve_app.test_autoscaling_policy import FakeBoard, _Id
from tests.serve_app.virtual_time import run_virtually

ALL = frozenset({"cpu", "cuda", "neuron", "emulated"})
RAW: dict[str, dict[str, Any]] = {
    "inf2": {
        "accelerator": "inf2.xlarge",
        "framework": "neuron",
        "resources": {"num_cpus": 0, "resources": {"neuron_cores": 2}},
        "artifact": {"source": "/graphs"},
        "max_replicas": 8,
        "elastic": {"provisioning_s": 100, "start_s": 50},
    },
    "g5": {
        "accelerator": "g5.xlarge",
        "framework": "cuda",
        "resources": {"num_cpus": 0, "num_gpus": 1},
        "max_replicas": 8,
        "elastic": {"provisioning_s": 100, "start_s": 50},
    },
    "own": {
        "accelerator": "own card",
        "framework": "cuda",
        "resources": {"num_cpus": 0, "resources": {"own_card": 1}},
        "max_replicas": 2,
    },
}
DEFAULT = Work(2, 10)


def report(rate: float = 4.0, **changes: Any) -> dict[str, Any]:
    return {
        "row_steps_per_s": rate * 20,
        "pictures_per_s": rate,
        "backlog": 0.0,
        "pinned": [],
        "p95_s": 1.0,
        "slo_s": 2.0,
        "default_row_steps": 20.0,
        "pools": {
            "inf2": {"capacity": 30.0, "price": 0.76},
            "g5": {"capacity": 30.0, "price": 1.0},
            "own": {"capacity": 20.0, "price": None},
        },
    } | changes


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


NODES: list[dict[str, float]] = [{"neuron_cores": 2.0}] * 8 + [{"GPU": 8.0}]


def decider(board: FakeBoard, nodes: list[dict[str, float]] = NODES, **options: float) -> Decider:
    return Decider(pool_needs(RAW), options, lambda: Seen(nodes, ALL), board, Clock())


def counts(**replicas: int) -> dict[str, tuple[int, int, int]]:
    return {name: (n, n, 8) for name, n in ({"inf2": 0, "g5": 0, "own": 0} | replicas).items()}


def test_elastic_pools_are_planned_by_price() -> None:
    board = FakeBoard(report())
    targets, told = decider(board).decide(counts(), {})
    # 80 row-steps/s with headroom 0.1 and 1.75 standard deviations: 137.5, five replicas of 30.
    assert targets == {"inf2": 5, "g5": 0, "own": 0}
    assert told["inf2"]["target"] == 5
    assert "required" in told["inf2"]["reason"]
    assert told["own"] == {"target": 0}
    assert board.decided is not None
    assert board.decided["required_row_steps_per_s"] == pytest.approx(137.5, abs=0.1)
    assert board.decided["pools"]["inf2"]["supply"]["state"] == "open"


def test_hardware_of_ones_own_is_used_first() -> None:
    board = FakeBoard(report())
    targets, _ = decider(board, [*NODES, {"own_card": 2.0}]).decide(counts(own=2), {})
    assert targets == {"inf2": 4, "g5": 0, "own": 2}  # 40 of the 130 are there


def test_reports_of_all_ingress_replicas_add_up() -> None:
    demand = demand_of([report(2.0, backlog=5.0), report(3.0, p95_s=4.0), report(0.0, p95_s=None)])
    assert (demand.row_steps_per_s, demand.pictures_per_s) == (100.0, 5.0)
    assert (demand.backlog, demand.p95_s) == (5.0, 4.0)
    assert demand_of([report(p95_s=None)]).p95_s is None


def test_without_word_from_the_ingress_elastic_pools_are_left_alone() -> None:
    targets, told = decider(FakeBoard()).decide(counts(inf2=3), {})
    assert targets == {"own": 0}
    assert "inf2" not in told


def test_what_is_not_known_is_assumed_small() -> None:
    needs = pool_needs(RAW)
    nothing = {name: {"capacity": None, "price": None} for name in RAW}
    assert known([report(pools=nothing)], needs)["inf2"] == (20.0, 1.0)
    some = nothing | {"g5": {"capacity": 12.0, "price": 2.0}}
    assert known([report(pools=some)], needs) == {
        "inf2": (12.0, 1.0),
        "g5": (12.0, 2.0),
        "own": (12.0, 1.0),
    }


def test_replicas_without_a_node_are_a_shortage_and_slow_ones_are_not() -> None:
    board, clock = FakeBoard(report()), Clock()
    nodes: list[dict[str, float]] = [{"GPU": 8.0}]
    needs = pool_needs(RAW)
    made = Decider(needs, {}, lambda: Seen(nodes, ALL), board, clock)
    for _ in range(60):  # no Neuron node comes; 100 s are allowed
        targets, told = made.decide(counts(), {})
        clock.now += 2
    assert told["inf2"]["supply"]["state"] == "short"
    assert "hardware" in told["inf2"]["reason"]
    assert targets["inf2"] == 0
    assert targets["g5"] == 5
    made = Decider(needs, {}, lambda: Seen(NODES, ALL), FakeBoard(report()), clock)
    for _ in range(60):  # nodes are there, but no replica gets ready
        targets, told = made.decide(counts(), {})
        clock.now += 2
    assert told["inf2"]["supply"]["state"] == "open"
    assert targets == {"inf2": 5, "g5": 0, "own": 0}


def test_serves_own_bounds_are_kept() -> None:
    board = FakeBoard(report())
    replicas = counts() | {"inf2": (0, 0, 2)}
    targets, _ = decider(board).decide(replicas, {})
    assert targets["inf2"] == 2
    assert targets["g5"] == 3


def test_serves_own_least_is_kept() -> None:
    """As set while the service runs, above what the pool was configured with."""
    replicas = counts() | {"g5": (0, 0, 8, 3), "inf2": (0, 0, 1, 2)}
    targets, _ = decider(FakeBoard(report(0.0))).decide(replicas, {})
    assert targets == {"inf2": 1, "g5": 3, "own": 0}


def test_the_policy_hears_serves_own_bounds() -> None:
    policy = AutoscalingPolicy(
        RAW, look=lambda: Seen(NODES, ALL), board=FakeBoard(report(0.0)), poll_s=60
    )
    contexts: dict[Any, Any] = {}
    for name in RAW:
        least = 3 if name == "g5" else 0
        contexts[_Id(name)] = SimpleNamespace(
            current_num_replicas=0,
            target_num_replicas=0,
            capacity_adjusted_min_replicas=least,
            capacity_adjusted_max_replicas=8,
        )
    policy._hear(contexts)
    policy.poll()
    assert {i.name: n for i, n in policy(contexts)[0].items()} == {"g5": 3}


def test_a_framework_that_cannot_run_is_not_planned() -> None:
    board = FakeBoard(report())
    made = Decider(pool_needs(RAW), {}, lambda: Seen(NODES, frozenset({"cuda"})), board, Clock())
    targets, _ = made.decide(counts(), {})
    assert "inf2" not in targets
    assert targets["g5"] == 5


def test_a_new_controller_remembers_supply_and_changes() -> None:
    board, clock = FakeBoard(report()), Clock()
    nodes: list[dict[str, float]] = [{"GPU": 8.0}]
    made = Decider(pool_needs(RAW), {}, lambda: Seen(nodes, ALL), board, clock)
    for _ in range(60):
        made.decide(counts(), {})
        clock.now += 2
    again = Decider(pool_needs(RAW), {}, lambda: Seen(nodes, ALL), board, clock)
    targets, told = again.decide(counts(g5=5), {})
    assert told["inf2"]["supply"]["state"] == "short"
    assert targets["inf2"] == 0
    assert told["g5"]["changed_at"] is not None
    again = Decider(pool_needs(RAW), {}, lambda: Seen(nodes, ALL), board, clock)
    clock.now += 3600  # too old to be of use
    assert again.decide(counts(g5=5), {})[1]["inf2"]["supply"]["state"] == "open"


def test_a_change_of_hardware_of_ones_own_is_told_and_remembered() -> None:
    board, clock, nodes = FakeBoard(report()), Clock(), [*NODES]
    needs = pool_needs(RAW)
    made = Decider(needs, {}, lambda: Seen(nodes, ALL), board, clock)
    assert made.decide(counts(), {})[1]["own"] == {"target": 0}
    clock.now += 2
    nodes.append({"own_card": 2.0})
    came = {"target": 2, "reason": "0 to 2: hardware seen", "changed_at": clock.now}
    stats = {"own": {"occupancy": 0.5}}
    assert made.decide(counts(), stats)[1]["own"] == came | {"replicas": stats["own"]}
    clock.now += 2
    assert made.decide(counts(own=2), {})[1]["own"] == came
    again = Decider(needs, {}, lambda: Seen(nodes, ALL), board, clock)
    assert again.decide(counts(own=2), {})[1]["own"] == came
    nodes.pop()
    clock.now += 2
    assert again.decide(counts(own=2), {})[1]["own"]["reason"] == "2 to 0: hardware seen"


def test_a_decision_of_another_version_is_ignored() -> None:
    told = {"inf2": {"target": 40, "supply": {"mood": "bad"}}, "g5": {"target": 3}}
    decision = {"at": 5.0, "pools": told}
    assert restored(decision, pool_needs(RAW), counts(), 6.0).pools == {}
    assert restored(None, pool_needs(RAW), counts(), 6.0).pools == {}


def test_while_no_ingress_speaks_the_last_plan_is_told() -> None:
    board = FakeBoard(report())
    made = decider(board)
    made.decide(counts(), {})
    board.words = []
    targets, told = made.decide(counts(inf2=5), {})
    assert targets == {"inf2": 5, "g5": 0, "own": 0}
    assert told["inf2"]["supply"]["state"] == "open"


def test_a_request_pinned_to_a_pool_at_zero_gets_its_first_replica() -> None:
    targets, _ = decider(FakeBoard(report(0.0, pinned=["g5"]))).decide(counts(), {})
    assert targets == {"inf2": 0, "g5": 1, "own": 0}


def test_own_replicas_that_never_get_ready_are_not_counted_for_ever() -> None:
    board, clock = FakeBoard(report()), Clock()
    seen = Seen([*NODES, {"own_card": 2.0}], ALL)
    made = Decider(pool_needs(RAW), {}, lambda: seen, board, clock)
    assert made.decide(counts() | {"own": (0, 2, 8)}, {})[0]["inf2"] == 4
    for _ in range(200):
        clock.now += 2
        targets, _ = made.decide(counts(inf2=4) | {"own": (0, 2, 8)}, {})
    assert targets["inf2"] == 5


def test_what_replicas_recorded_is_passed_on() -> None:
    board = FakeBoard(report())
    stats = {"inf2": {"occupancy": 0.5}, "unknown": {"occupancy": 1.0}, "g5": {}}
    _, told = decider(board).decide(counts(), stats)
    assert told["inf2"]["replicas"] == {"occupancy": 0.5}
    assert "replicas" not in told["g5"]
    assert means({"occupancy": {"r1": 0.25, "r2": 0.75}, "empty": {}}) == {"occupancy": 0.5}
    assert means(None) == {}


def test_an_unknown_planner_option_holds_every_count(caplog: pytest.LogCaptureFixture) -> None:
    policy = AutoscalingPolicy(
        RAW, {"head_room": 1.0}, look=lambda: Seen([], ALL), board=FakeBoard()
    )
    with caplog.at_level(logging.WARNING):
        policy.poll()
        policy.poll()
    assert policy.faults == 2
    assert len([r for r in caplog.records if "head_room" in r.message]) == 1
    assert policy({}) == ({}, {})


def test_the_meter_counts_what_arrives_within_its_window() -> None:
    meter = DemandMeter()
    for at in range(60):
        meter.arrived(Work(2, 10), float(at))
        meter.arrived(Work(1, 10), at + 0.5)
    row_steps, pictures = meter.rates(59.9)
    assert row_steps == pytest.approx(30.0)
    assert pictures == pytest.approx(2.0)
    assert meter.rates(200.0) == (0.0, 0.0)


def test_the_meters_p95_needs_some_answers_and_forgets() -> None:
    meter = DemandMeter()
    for number in range(19):
        meter.answered(DEFAULT, float(number), 100.0)
    assert meter.p95_s(100.0, DEFAULT) is None
    meter.answered(DEFAULT, 19.0, 100.0)
    assert meter.p95_s(100.0, DEFAULT) == 18.0
    assert meter.p95_s(161.0, DEFAULT) is None


def test_a_latency_is_held_against_what_its_work_may_take() -> None:
    meter = DemandMeter()
    for _ in range(15):
        meter.answered(DEFAULT, 1.0, 100.0)
        meter.answered(Work(DEFAULT.rows, 4 * DEFAULT.steps), 3.2, 100.0)
        meter.answered(Work(DEFAULT.rows, 1), 0.9, 100.0)  # a small one may take what all may
    assert meter.p95_s(100.0, DEFAULT) == 1.0


def pool(name: str, *, ready: int = 1, rows: float = 0.0, elastic: bool = True) -> PoolSnapshot:
    return PoolSnapshot(
        name=name,
        accelerator="x",
        framework="cuda",
        weight=1,
        max_replicas=4,
        state=PoolState(ready=ready),
        price_per_hour=1.5,
        profile=Profile(0.5, 90.0) if elastic else None,
        speed=Speed({4: 25.0}, 4),
        load=Load(int(rows / 2), rows, rows * 5),
    )


def test_a_report_tells_queue_capacity_and_price() -> None:
    meter = DemandMeter()
    meter.held(40.0, None)
    meter.held(7.0, "a")
    pools = [pool("a", rows=10.0), pool("b", rows=3.0, elastic=False)]
    found = demand_report(meter, pools, DEFAULT, slo_s=2.0, peers=1, now=0.0)
    # Ten rows where four fit: six tenths of the 50 row-steps wait; and what is held.
    assert found["backlog"] == pytest.approx(30.0 + 40.0)
    assert found["pinned"] == ["a"]
    assert found["pools"]["a"] == {"capacity": 30.0, "price": 1.5}
    assert found["pools"]["b"]["capacity"] is None
    # The load in a snapshot is that of both; each tells its half.
    assert demand_report(meter, pools, DEFAULT, slo_s=2.0, peers=2, now=0.0)["backlog"] == 55.0


class IngressBoard:
    def __init__(self) -> None:
        self.reported: dict[str, Mapping[str, Any]] = {}
        self.broken = False

    def report(self, who: str, report: Mapping[str, Any]) -> None:
        if self.broken:
            raise OSError("no GCS")
        self.reported[who] = report

    def decision(self) -> dict[str, Any] | None:
        return {"at": 1.0, "faults": 0, "pools": {}} if self.reported else None


def test_the_reporter_survives_a_broken_board(caplog: pytest.LogCaptureFixture) -> None:
    board, heard = IngressBoard(), list[Mapping[str, Any]]()
    reporter = Reporter(
        "me", board, DemandMeter(), list, lambda: 1, DEFAULT, lambda: 3.0, heard.append
    )
    reporter.exchange()
    assert board.reported["me"]["slo_s"] == 3.0
    assert reporter.decision == heard[0] == {"at": 1.0, "faults": 0, "pools": {}}
    board.broken = True
    reporter.exchange()
    reporter.exchange()
    assert [r.message.count("no GCS") for r in caplog.records] == [1]
    assert reporter.decision is not None
    board.broken = False
    reporter.exchange()
    board.broken = True
    reporter.exchange()
    assert len(caplog.records) == 2  # told anew after it had worked again


HOLD: list[tuple[str, str | None, float, float, float | None, bool, float]] = [
    # pin, hold_s, left_s, when something comes, comes in time, waited at most
    ("in time", None, 10, 100, 3.0, True, 3.2),
    ("never", None, 10, 100, None, False, 10.0),
    ("the request's own limit is earlier", None, 10, 2, 5.0, False, 2.0),
    ("switched off", None, 0, 100, 0.5, False, 0.0),
    ("pinned to an elastic pool", "a", 10, 100, 1.0, True, 1.2),
    ("pinned to one that will not come", "b", 10, 100, 1.0, False, 0.0),
]


@pytest.mark.parametrize(
    ("pin", "hold_s", "left_s", "comes_at", "expected", "most_s"),
    [h[1:] for h in HOLD],
    ids=[h[0] for h in HOLD],
)
def test_holding(
    pin: str | None,
    hold_s: float,
    left_s: float,
    comes_at: float | None,
    expected: bool,
    most_s: float,
) -> None:
    async def main() -> None:
        loop, meter = asyncio.get_running_loop(), DemandMeter()
        holding = Holding(
            meter, ["a"], lambda pin, lora: comes_at is not None and loop.time() >= comes_at
        )
        holding.hold_s = hold_s
        task = asyncio.create_task(holding.wait(Work(2, 10), pin, lambda: left_s))
        await asyncio.sleep(0.05)
        if most_s > 0:
            assert (holding.waiting, meter.held_row_steps) == (1, 0.0 if pin else 20.0)
            assert meter.held_pins == ([pin] if pin else [])
        assert await task is expected
        assert loop.time() <= most_s + 0.06
        assert (holding.waiting, meter.held_row_steps) == (0, 0.0)

    run_virtually(main())


def test_a_pool_need_tells_whether_it_is_elastic() -> None:
    needs: Mapping[str, PoolNeed] = pool_needs(RAW)
    assert needs["own"].elastic is None
    assert needs["inf2"].elastic is not None
    assert needs["inf2"].elastic.provisioning_s == 100


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """The cluster's key-value store, in memory."""
    kept: dict[bytes, bytes] = {}

    def put(key: bytes, value: bytes, *, overwrite: bool) -> None:
        assert overwrite
        kept[key] = value

    kv = "ray.experimental.internal_kv._internal_kv_"
    monkeypatch.setattr(kv + "put", put)
    monkeypatch.setattr(kv + "get", kept.get)
    monkeypatch.setattr(kv + "del", lambda key: kept.pop(key, None))
    monkeypatch.setattr(kv + "list", lambda start: [key for key in kept if key.startswith(start)])
    return kept


def test_the_board_keeps_word_by_application_and_takes_stale_reports_down(
    store: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("serve_app.autoscaling.board.time.monotonic", lambda: now[0])
    board, other = Board("one"), Board("two")
    assert (board.reports(), board.decision()) == ([], None)
    board.report("a", {"rate": 1})
    assert len(board.reports()) == 1
    now[0] += 10
    board.report("b", {"rate": 2})
    assert [report["rate"] for report in board.reports()] == [1, 2]
    assert other.reports() == []
    now[0] += STALE_S - 9
    assert [report["rate"] for report in board.reports()] == [2]
    assert len(store) == 1
    board.decide({"pools": {}})
    assert board.decision() == {"pools": {}}
    assert other.decision() is None


def test_every_decision_becomes_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float, dict[str, str]]] = []

    class Gauge:
        def __init__(self, name: str, about: str, tags: tuple[str, ...] = ()) -> None:
            self.name = name

        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            seen.append((self.name, value, tags or {}))

    monkeypatch.setattr("ray.serve.metrics.Gauge", Gauge)
    now = iter([50.0, 52.0, 53.0])
    gauges = RayAutoscalingMetrics(lambda: next(now))
    pools = {"a": {"target": 2}, "b": {"target": 0, "supply": {"state": "short"}}}
    gauges.decided({"at": 1.0, "faults": 1, "pools": pools})
    gauges.decided({"at": 1.0, "faults": 2, "pools": {}, "required_row_steps_per_s": 8.0})
    gauges.decided({"at": 9.0, "faults": 2, "pools": {}})
    assert seen == [
        ("imagine_autoscaling_age_seconds", 0.0, {}),
        ("imagine_autoscaling_faults", 1, {}),
        ("imagine_autoscaling_target", 2, {"pool": "a"}),
        ("imagine_autoscaling_target", 0, {"pool": "b"}),
        ("imagine_autoscaling_short", 1.0, {"pool": "b"}),
        ("imagine_autoscaling_age_seconds", 2.0, {}),
        ("imagine_autoscaling_faults", 2, {}),
        ("imagine_autoscaling_required_row_steps_per_s", 8.0, {}),
        ("imagine_autoscaling_age_seconds", 0.0, {}),
        ("imagine_autoscaling_faults", 2, {}),
    ]
