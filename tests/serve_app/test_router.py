"""One request's way to a pool, by table: pins, stickiness, probes, limits, deadlines, retries."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from serve_app.routing.policies import POLICIES, PolicyOptions
from serve_app.routing.router import Decision, Refusal, WaitLimits, Wishes, route
from serve_app.routing.snapshot import PoolSnapshot
from serve_app.routing.speed import Profile, Speed
from serve_app.routing.work import Load, Work
from tests.serve_app.conftest import snapshot

WORK = Work(2, 10)
FAST = Speed({2: 100}, 2)  # one picture at a time, a second each


def busy(pictures: int) -> Load:
    return Load(pictures, 2.0 * pictures, 20.0 * pictures)


def pool(name: str, *, waiting: int = 0, **more: Any) -> PoolSnapshot:
    """A pool on which ``waiting`` pictures of a second each are ahead."""
    return snapshot(name, speed=FAST, load=busy(waiting), **more)


def send(
    *pools: PoolSnapshot,
    policy: str = "weighted",
    work: Work = WORK,
    wishes: Wishes = Wishes(),  # noqa: B008 - frozen
    max_wait_s: float | None = None,
    per_pool: dict[str, float] | None = None,
    **more: Any,
) -> Decision | Refusal:
    return route(
        pools,
        POLICIES[policy](PolicyOptions()),
        work,
        0.0,
        wishes=wishes,
        limits=WaitLimits(total=max_wait_s, pools=per_pool or {}),
        **more,
    )


def went(decision: Decision | Refusal) -> tuple[str, str]:
    assert isinstance(decision, Decision), decision
    return decision.pool.name, decision.reason


def refused(decision: Decision | Refusal) -> Refusal:
    assert isinstance(decision, Refusal), decision
    return decision


A, B = pool("a", weight=90), pool("b", weight=10)
FULL = pool("b", waiting=9)
HELD = pool("a", weight=90, held=True)


@pytest.mark.parametrize(
    ("pools", "how", "expected"),
    [
        ([A, B], {}, ("a", "policy")),
        ([A, B], {"wishes": Wishes(sticky="b")}, ("b", "sticky")),
        ([A, B], {"wishes": Wishes(pin="b")}, ("b", "pinned")),
        ([A, B], {"wishes": Wishes(pin="a", sticky="b")}, ("a", "pinned")),
        ([A, B], {"wishes": Wishes(sticky="gone")}, ("a", "policy")),
        ([A, pool("b", ready=0)], {"wishes": Wishes(sticky="b")}, ("a", "policy")),
        ([A, pool("b", held=True)], {"wishes": Wishes(sticky="b")}, ("a", "policy")),
        # Full: a sticky request moves on, and so does the policy's first choice.
        ([A, FULL], {"wishes": Wishes(sticky="b"), "max_wait_s": 5}, ("a", "policy")),
        ([pool("a", weight=90, waiting=9), B], {"max_wait_s": 5}, ("b", "policy")),
        ([pool("a", weight=90, waiting=9), B], {"per_pool": {"a": 5}}, ("b", "policy")),
        ([pool("a", weight=90, waiting=9), B], {"per_pool": {"b": 5}}, ("a", "policy")),
        ([pool("a", weight=90, waiting=9), B], {"left_s": 5}, ("b", "policy")),
        # Breakers.
        ([HELD, B], {}, ("b", "policy")),
        ([HELD, pool("b", ready=0)], {}, ("a", "policy")),
        ([HELD, B], {"wishes": Wishes(pin="a")}, ("a", "pinned")),
        ([pool("a", held=True, probe=True), B], {}, ("a", "probe")),
        ([pool("a", held=True, probe=True), B], {"wishes": Wishes(sticky="b")}, ("a", "probe")),
        ([pool("a", held=True, probe=True), B], {"wishes": Wishes(pin="b")}, ("b", "pinned")),
        ([pool("a", held=True, probe=True), B], {"left_s": 60}, ("a", "probe")),
        ([pool("a", held=True, probe=True), B], {"left_s": 1.5}, ("b", "policy")),
        ([pool("a", held=True, probe=True, ready=0), B], {}, ("b", "policy")),
        # Second attempts.
        ([A, B], {"failed": ["a"]}, ("b", "retry")),
        ([A, B], {"failed": ["a"], "wishes": Wishes(sticky="a")}, ("b", "retry")),
        ([A, pool("b", ready=0)], {"failed": ["a"]}, ("a", "retry")),
        ([A, pool("b", held=True)], {"failed": ["a"]}, ("a", "retry")),
        ([A, B], {"failed": ["a"], "wishes": Wishes(pin="a")}, ("a", "retry")),
        ([pool("a", held=True, probe=True), B], {"failed": ["b"]}, ("b", "retry")),
    ],
)  # fmt: skip
def test_where_a_request_goes(
    pools: list[PoolSnapshot], how: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert went(send(*pools, **how)) == expected


SQUARE, WIDE = Work(2, 10, (512, 512)), Work(3, 10, (768, 512))
STATIC = pool("a", weight=90, sizes=frozenset({(512, 512), (256, 512)}))
STATIC_PROBED = pool("a", held=True, probe=True, sizes=frozenset({(512, 512)}))


@pytest.mark.parametrize(
    ("pools", "how", "expected"),
    [
        ([STATIC, B], {"work": SQUARE}, ("a", "policy")),
        ([STATIC, B], {"work": WIDE}, ("b", "policy")),
        ([STATIC, B], {"work": WORK}, ("a", "policy")),
        ([STATIC, B], {"work": WIDE, "wishes": Wishes(sticky="a")}, ("b", "policy")),
        ([STATIC_PROBED, B], {"work": SQUARE}, ("a", "probe")),
        ([STATIC_PROBED, B], {"work": WIDE}, ("b", "policy")),
        # A pool whose breaker holds is used where no other paints the size.
        ([STATIC, pool("b", held=True)], {"work": WIDE}, ("b", "policy")),
        ([STATIC, B], {"work": WIDE, "failed": ["b"]}, ("b", "retry")),
    ],
)
def test_a_pool_is_asked_for_sizes_that_it_paints(
    pools: list[PoolSnapshot], how: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert went(send(*pools, **how)) == expected


@pytest.mark.parametrize(
    ("pools", "wishes", "size", "param"),
    [
        ([STATIC], Wishes(), (768, 512), "width"),
        ([STATIC, pool("b", ready=0)], Wishes(), (256, 256), "height"),
        ([STATIC, B], Wishes(pin="a"), (512, 768), "height"),
    ],
)
def test_a_size_that_no_pool_paints_is_a_bad_request(
    pools: list[PoolSnapshot], wishes: Wishes, size: tuple[int, int], param: str
) -> None:
    why = refused(send(*pools, work=Work(2, 10, size), wishes=wishes))
    assert (why.code, why.param, why.retry_after_s) == ("invalid_request", param, None)
    assert f"got {size[0]} x {size[1]}" in why.message
    assert "a: 256 x 512, 512 x 512" in why.message


def test_too_much_waits_only_where_the_size_is_painted() -> None:
    crowded = pool("b", waiting=9)
    why = refused(send(STATIC, crowded, work=WIDE, max_wait_s=5))
    assert (why.code, why.retry_after_s) == ("overloaded", 5)
    assert "s on b, where at most 5 s" in why.message


def test_sizes_that_a_pool_does_not_paint_leave_the_shares_alone() -> None:
    pools = [pool("a", weight=50, sizes=STATIC.sizes), pool("b", weight=30), pool("c", weight=20)]
    policy = POLICIES["weighted"](PolicyOptions(phase=7))
    how: dict[str, Any] = {"wishes": Wishes(), "limits": WaitLimits()}
    served: Counter[str] = Counter()
    for turn in range(200):
        if turn % 2:
            assert went(route(pools, policy, WIDE, 0.0, **how))[0] != "a"
        else:
            served[went(route(pools, policy, SQUARE, 0.0, **how))[0]] += 1
    assert served["a"] == 50


@pytest.mark.parametrize("phase", [0, 7])
def test_the_last_weighted_pool_may_go_whatever_the_phase(phase: int) -> None:
    policy = POLICIES["weighted"](PolicyOptions(phase=phase))
    how: dict[str, Any] = {"wishes": Wishes(), "limits": WaitLimits()}
    spare = pool("spare", weight=0)
    assert went(route([A, spare], policy, WORK, 0.0, **how))[0] == "a"
    assert went(route([spare], policy, WORK, 1.0, **how))[0] == "spare"
    assert went(route([A, spare], policy, WORK, 2.0, **how))[0] == "a"


def test_a_size_is_no_reason_where_nothing_runs() -> None:
    down = pool("a", ready=0, sizes=frozenset({(512, 512)}))
    assert refused(send(down, work=WIDE)).code == "unavailable"


@pytest.mark.parametrize(
    ("how", "retry_after_s"), [({"max_wait_s": 5}, 2), ({"per_pool": {"a": 3, "b": 6}}, 1)]
)
def test_over_the_limits_everywhere_is_overloaded(how: dict[str, Any], retry_after_s: int) -> None:
    why = refused(send(pool("a", waiting=9), pool("b", waiting=7), **how))
    assert (why.code, why.param, why.retry_after_s) == ("overloaded", None, retry_after_s)
    assert "7.0 s on b" in why.message


def test_a_deadline_that_only_an_idle_pool_could_keep_is_worth_another_try() -> None:
    why = refused(send(pool("a", waiting=9), pool("b", waiting=4), left_s=2.5))
    assert (why.code, why.param, why.retry_after_s) == ("deadline_exceeded", "deadline_ms", 3)
    assert "b, takes about 5000 ms, 4000 ms of them waiting" in why.message


def test_a_deadline_that_no_pool_can_keep_is_not() -> None:
    why = refused(send(A, B, left_s=0.5))
    assert (why.code, why.retry_after_s) == ("deadline_exceeded", None)


def test_full_and_late_is_overloaded_only_if_all_are_full() -> None:
    full_and_late = (pool("a", waiting=9), pool("b", waiting=9))
    assert refused(send(*full_and_late, max_wait_s=5, left_s=1)).code == "overloaded"
    assert refused(send(full_and_late[0], B, max_wait_s=5, left_s=0.5)).code == "deadline_exceeded"


def test_a_pinned_request_is_refused_where_its_pool_is_full() -> None:
    why = refused(send(pool("a", waiting=9), B, wishes=Wishes(pin="a"), max_wait_s=5))
    assert why.code == "overloaded"


def test_without_any_pool_the_reasons_are_told() -> None:
    why = refused(send(snapshot("a", ready=0), snapshot("b", ready=0, updating=1)))
    assert why.code == "unavailable"
    assert "a: no replica" in why.message
    assert "b: 1 replica(s) being reconfigured" in why.message
    why = refused(send(snapshot("a", ready=0), B, wishes=Wishes(pin="a")))
    assert (why.code, why.param) == ("unavailable", "pool")


def test_the_prediction_is_told() -> None:
    decision = send(pool("a", waiting=2, correction=2.0))
    assert isinstance(decision, Decision)
    assert decision.predicted_s == pytest.approx(6)


def test_retries_leave_the_shares_alone() -> None:
    """To the policy a pool on which one request failed is there as before."""
    pools = [pool("a", weight=40), pool("b", weight=40), pool("c", weight=20)]
    policy = POLICIES["weighted"](PolicyOptions())
    served: Counter[str] = Counter()
    for turn in range(300):
        failed = ["a"] if turn % 10 == 9 else []
        how: dict[str, Any] = {"wishes": Wishes(), "limits": WaitLimits(), "failed": failed}
        name, reason = went(route(pools, policy, WORK, 0.0, **how))
        if reason == "policy":
            served[name] += 1
        else:
            assert name != "a"
    assert served["b"] == pytest.approx(108, abs=15)
    assert served["c"] == pytest.approx(54, abs=10)


def test_one_failed_request_does_not_move_failover() -> None:
    cheap = pool("cheap", price_per_hour=1, profile=Profile(1.0, 60))
    dear = pool("dear", price_per_hour=9, profile=Profile(1.0, 60))
    policy = POLICIES["failover"](PolicyOptions(slo_s=5))
    how: dict[str, Any] = {"wishes": Wishes(), "limits": WaitLimits()}
    names = []
    for second in range(10):
        failed = ["cheap"] if second == 4 else []
        choice = route([cheap, dear], policy, WORK, float(second), failed=failed, **how)
        names.append(went(choice)[0])
    assert names == ["cheap"] * 4 + ["dear"] + ["cheap"] * 5


def test_an_uncommonly_large_request_says_nothing_of_a_pool() -> None:
    cheap = pool("cheap", price_per_hour=1, profile=Profile(1.0, 60))
    dear = pool("dear", price_per_hour=9, profile=Profile(1.0, 60))
    policy = POLICIES["failover"](PolicyOptions(slo_s=5))
    how: dict[str, Any] = {"wishes": Wishes(), "limits": WaitLimits()}
    for second in range(20):
        choice = route([cheap, dear], policy, Work(2, 500), float(second), **how)
        assert went(choice)[0] == "cheap"
