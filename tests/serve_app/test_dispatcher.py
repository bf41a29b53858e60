"""The dispatcher over fake handles: retry, cancel, limits, never an unavailable pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.messages import (
    ImageFailure,
    ImageProgress,
    ImageRequest,
    ImageResult,
    Timings,
)
from serve_app.autoscaling.meter import DemandMeter
from serve_app.live import LiveSettings
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.dispatcher import Dispatcher
from serve_app.routing.outcome import DispatchError, ReplicaLostError
from serve_app.routing.router import Wishes
from serve_app.routing.snapshot import PoolState
from serve_app.routing.speed import Speed
from serve_app.routing.watching import Sent, Waiting, Watch
from serve_app.routing.work import Load, Work
from serve_app.settings import INGRESS, Settings

Answer = ImageResult | ImageFailure
Script = Callable[[], Coroutine[Any, Any, Answer]]

RESULT = ImageResult(
    image=b"png",
    media_type="image/png",
    seed=1,
    timings=Timings(queue=0, encode=0, denoise=0, decode=0, total=0),
)


def request(time_left_s: float | None = None) -> ImageRequest:
    return ImageRequest(
        request_id="r",
        prompt="a",
        negative_prompt="",
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=1,
        seed=1,
        time_left_s=time_left_s,
    )


async def paint() -> Answer:
    return RESULT


async def die() -> Answer:
    raise ReplicaLostError("ActorDiedError")


async def hang() -> Answer:
    await asyncio.sleep(60)
    return RESULT


def fail(code: Any, *, retryable: bool = False) -> Script:
    async def answer() -> Answer:
        return ImageFailure(code=code, message=f"told: {code}", retryable=retryable, param="prompt")

    return answer


@dataclass
class FakeReply:
    script: Script
    log: list[str]
    pool: str

    async def result(self) -> Answer:
        return await self.script()

    def cancel(self) -> None:
        self.log.append(f"cancel {self.pool}")


@dataclass
class FakeHandle:
    pool: str
    scripts: list[Script]
    log: list[str]
    requests: list[ImageRequest] = field(default_factory=list)
    watches: list[Watch | None] = field(default_factory=list)

    def generate(self, request: ImageRequest, watch: Watch | None = None) -> FakeReply:
        self.log.append(f"send {self.pool}")
        self.requests.append(request)
        self.watches.append(watch)
        return FakeReply(self.scripts.pop(0), self.log, self.pool)


UP, GONE = PoolState(ready=1), PoolState()
PIXELS = 64 * 64


class Bench:
    """A dispatcher over pools ``a`` (preferred) and ``b`` with scripted answers."""

    def __init__(
        self,
        *,
        timeout_s: float = 5,
        live: Any = None,
        elastic: tuple[str, ...] = (),
        **scripts: list[Script],
    ) -> None:
        self.log: list[str] = []
        self.handles = {n: FakeHandle(n, list(s), self.log) for n, s in scripts.items()}
        self.settings = Settings.parse(
            {
                "pools": {
                    name: {
                        "accelerator": name,
                        "framework": "cpu",
                        "weight": weight,
                        "elastic": {} if name in elastic else None,
                    }
                    for name, weight in (("a", 90), ("b", 10))
                    if name in scripts
                }
            }
        )
        self.states = dict.fromkeys(scripts, UP)
        self.directory = PoolDirectory(self.settings.pools, lambda: self.states, Work(1, 4))
        self.meter = DemandMeter()
        self.dispatcher = Dispatcher(
            self.handles,
            self.directory,
            reference_pixels=PIXELS,
            timeout_s=timeout_s,
            meter=self.meter,
            watch_s=0.01,
        )
        prices = {"prices": dict.fromkeys(elastic, 1.0)} if elastic else {}
        self.configure(prices | (live or {}))

    def configure(self, live: Any) -> None:
        self.dispatcher.configure(LiveSettings.parse(live, self.settings))

    async def pool(self, *, sent: ImageRequest | None = None, **wishes: Any) -> str:
        """The pool that painted."""
        painted = await self.dispatcher.paint(sent or request(), Wishes(**wishes))
        return painted.pool.name

    async def error(self, *, sent: ImageRequest | None = None, **wishes: Any) -> DispatchError:
        with pytest.raises(DispatchError) as caught:
            await self.dispatcher.paint(sent or request(), Wishes(**wishes))
        return caught.value

    def idle(self) -> bool:
        return all(self.directory.record(name).load == Load() for name in self.handles)


async def test_one_request_is_sent_once() -> None:
    bench = Bench(a=[paint], b=[])
    painted = await bench.dispatcher.paint(request())
    assert painted.pool.name == "a"
    assert painted.result is RESULT
    assert bench.log == ["send a"]


async def test_a_lost_replica_means_one_retry_on_the_next_pool_with_the_same_request() -> None:
    bench = Bench(a=[die], b=[paint])
    painted = await bench.dispatcher.paint(request())
    assert painted.pool.name == "b"
    assert bench.log == ["send a", "cancel a", "send b"]
    assert bench.handles["a"].requests == bench.handles["b"].requests


async def test_a_watcher_is_told_where_the_request_is_and_when_it_begins_anew() -> None:
    told: list[Any] = []

    async def half_way() -> Answer:
        bench.handles["a"].watches[0](ImageProgress(step=2, steps=4))  # type: ignore[misc]
        raise ReplicaLostError("ActorDiedError")

    bench = Bench(a=[half_way], b=[paint])
    painted = await bench.dispatcher.paint(request(), watch=told.append)
    assert painted.pool.name == "b"
    assert [type(event).__name__ for event in told] == ["Sent", "ImageProgress", "Sent"]
    assert [(e.pool.name, e.attempt) for e in told if isinstance(e, Sent)] == [("a", 1), ("b", 2)]
    assert bench.handles["a"].requests == bench.handles["b"].requests
    assert bench.idle()


async def test_nobody_is_watched_unasked() -> None:
    bench = Bench(a=[paint], b=[])
    await bench.dispatcher.paint(request())
    assert bench.handles["a"].watches == [None]


async def test_lost_twice_is_given_up() -> None:
    bench = Bench(a=[die], b=[die])
    error = await bench.error()
    assert error.code == "lost"
    assert error.retry_after_s
    assert bench.log == ["send a", "cancel a", "send b", "cancel b"]


async def test_the_only_pool_is_tried_again() -> None:
    bench = Bench(a=[die, paint])
    assert await bench.pool() == "a"
    assert bench.log == ["send a", "cancel a", "send a"]


async def test_a_pinned_request_never_leaves_its_pool() -> None:
    bench = Bench(a=[paint], b=[die, die])
    error = await bench.error(pin="b")
    assert error.code == "lost"
    assert bench.log == ["send b", "cancel b", "send b", "cancel b"]


async def test_a_retryable_failure_is_retried_elsewhere() -> None:
    bench = Bench(a=[fail("device_error", retryable=True)], b=[paint])
    assert await bench.pool() == "b"


NOT_HERE = fail("invalid_request", retryable=True)


async def test_what_one_pool_was_not_compiled_for_goes_to_another() -> None:
    bench = Bench(a=[NOT_HERE], b=[paint])
    assert await bench.pool() == "b"


@pytest.mark.parametrize("wishes", [{}, {"pin": "a"}])
async def test_what_no_pool_was_compiled_for_is_refused_at_once(wishes: dict[str, Any]) -> None:
    bench = Bench(a=[NOT_HERE]) if not wishes else Bench(a=[NOT_HERE], b=[])
    error = await bench.error(**wishes)
    assert (error.code, error.param) == ("invalid_request", "prompt")
    assert bench.log == ["send a"]


@pytest.mark.parametrize("live", [{}, {"fairness": {}}])
async def test_a_size_that_is_known_not_to_be_painted_is_never_sent(live: dict[str, Any]) -> None:
    bench = Bench(a=[], b=[paint], live=live)
    bench.directory.measured("a", Speed({2: 10.0}, 2), frozenset({(512, 512)}))
    assert await bench.pool() == "b"
    bench.states["b"] = GONE
    error = await bench.error()
    assert (error.code, error.param) == ("invalid_request", "width")
    assert "a: 512 x 512" in str(error)
    assert bench.log == ["send b"]


BREAK_AT_ONCE = {"recovery": {"breaker_failures": 1, "breaker_open_s": 0.2}}


async def test_a_failing_pool_is_left_alone_and_then_probed() -> None:
    bench = Bench(
        live=BREAK_AT_ONCE, a=[fail("device_error", retryable=True), paint, paint], b=[paint] * 4
    )
    for _ in range(4):
        assert await bench.pool() == "b"
    assert bench.log.count("send a") == 1
    await asyncio.sleep(0.25)
    painted = await bench.dispatcher.paint(request())
    assert (painted.pool.name, painted.reason) == ("a", "probe")
    assert not bench.directory.snapshots()[0].held


async def test_a_failed_probe_costs_its_request_nothing() -> None:
    bench = Bench(live=BREAK_AT_ONCE, a=[die, die], b=[paint] * 9)
    assert await bench.pool() == "b"
    await asyncio.sleep(0.25)
    painted = await bench.dispatcher.paint(request())
    assert (painted.pool.name, painted.reason) == ("b", "retry")
    await asyncio.sleep(0.25)  # twice as long this time
    assert await bench.pool() == "b"
    assert bench.log.count("send a") == 2


async def test_only_one_request_probes_and_one_that_is_cancelled_makes_room() -> None:
    bench = Bench(live=BREAK_AT_ONCE, a=[die, hang, paint], b=[paint] * 9)
    await bench.pool()
    await asyncio.sleep(0.25)
    probe = asyncio.ensure_future(bench.pool())
    await asyncio.sleep(0.01)
    assert await bench.pool() == "b"
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert await bench.pool() == "a"


async def test_three_failures_in_a_row_are_needed_by_default() -> None:
    bench = Bench(a=[die, paint], b=[paint])
    assert await bench.pool() == "b"
    assert await bench.pool() == "a"


async def test_the_only_available_pool_is_used_whatever_its_breaker_says() -> None:
    bench = Bench(live=BREAK_AT_ONCE, a=[fail("device_error", retryable=True), paint, paint], b=[])
    bench.states["b"] = GONE
    for _ in range(2):
        assert await bench.pool() == "a"


async def test_a_pinned_request_goes_to_a_pool_left_alone() -> None:
    bench = Bench(live=BREAK_AT_ONCE, a=[die, paint], b=[paint])
    await bench.pool()
    assert await bench.pool(pin="a") == "a"


@pytest.mark.parametrize(
    "code", ["invalid_request", "overloaded", "deadline_exceeded", "generation_failed"]
)
async def test_another_failure_is_not_retried(code: str) -> None:
    bench = Bench(a=[fail(code)], b=[paint])
    error = await bench.error()
    # Only one field can be at fault for a deadline, whatever the replica says.
    param = "deadline_ms" if code == "deadline_exceeded" else "prompt"
    assert (error.code, str(error), error.param) == (code, f"told: {code}", param)
    assert (error.retry_after_s is not None) == (code == "overloaded")
    assert bench.log == ["send a"]


async def test_the_time_limit_cancels_the_work() -> None:
    bench = Bench(timeout_s=0.1, a=[hang])
    assert (await bench.error()).code == "timeout"
    assert bench.log == ["send a", "cancel a"]


async def test_the_deadline_cancels_the_work() -> None:
    bench = Bench(a=[hang])
    error = await bench.error(sent=request(time_left_s=0.1))
    assert (error.code, error.param) == ("deadline_exceeded", "deadline_ms")
    assert bench.log == ["send a", "cancel a"]


async def test_after_the_deadline_nothing_is_sent() -> None:
    bench = Bench(a=[paint])
    assert (await bench.error(sent=request(time_left_s=-1))).code == ("deadline_exceeded")
    assert bench.log == []


async def test_the_retry_shares_the_time_limit() -> None:
    async def die_late() -> Answer:
        await asyncio.sleep(0.15)
        raise ReplicaLostError("late")

    bench = Bench(timeout_s=0.2, a=[die_late], b=[hang])
    began = time.monotonic()
    assert (await bench.error()).code == "timeout"
    assert time.monotonic() - began < 0.3


async def test_cancelling_the_caller_cancels_the_work() -> None:
    bench = Bench(a=[hang], b=[paint])
    task = asyncio.ensure_future(bench.dispatcher.paint(request()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.log == ["send a", "cancel a"]


async def test_an_unavailable_pool_gets_nothing() -> None:
    bench = Bench(a=[paint], b=[paint])
    bench.states["a"] = GONE
    await bench.pool()
    assert bench.log == ["send b"]
    error = await bench.error(pin="a")
    assert (error.code, error.param) == ("unavailable", "pool")
    bench.states["b"] = GONE
    error = await bench.error()
    assert error.code == "unavailable"
    assert error.retry_after_s
    assert "a: no replica" in str(error)
    assert "b: no replica" in str(error)
    assert bench.log == ["send b"]


async def test_a_pool_whose_last_replica_is_gone_is_left() -> None:
    bench = Bench(a=[hang], b=[paint])
    task = asyncio.ensure_future(bench.pool())
    await asyncio.sleep(0.05)
    bench.states["a"] = GONE
    assert await task == "b"
    assert bench.log == ["send a", "cancel a", "send b"]


@pytest.mark.parametrize("state", ["draining", "updating"])
async def test_a_pool_that_takes_nothing_new_may_finish(state: str) -> None:
    async def slowly() -> Answer:
        await asyncio.sleep(0.2)
        return RESULT

    bench = Bench(a=[slowly], b=[])
    task = asyncio.ensure_future(bench.pool())
    await asyncio.sleep(0.05)
    bench.states["a"] = PoolState(**{state: 1})
    assert await task == "a"


async def test_an_unexpected_error_passes_and_leaves_nothing_running() -> None:
    async def boom() -> Answer:
        raise RuntimeError("boom")

    bench = Bench(a=[boom], b=[paint])
    with pytest.raises(RuntimeError):
        await bench.dispatcher.paint(request())
    assert bench.log == ["send a", "cancel a"]


async def test_a_hung_replica_is_given_up_and_the_picture_made_elsewhere() -> None:
    bench = Bench(live={"recovery": {"hang_after_s": 0.1}}, a=[hang], b=[paint])
    painted = await bench.dispatcher.paint(request())
    assert (painted.pool.name, painted.reason) == ("b", "retry")
    assert bench.log == ["send a", "cancel a", "send b"]
    assert bench.dispatcher.journal.failures["a", "hung"] == 1


async def test_a_replica_is_hung_only_after_its_predicted_time() -> None:
    async def slowly() -> Answer:
        await asyncio.sleep(0.3)
        return RESULT

    bench = Bench(live={"recovery": {"hang_after_s": 0.1}}, a=[slowly], b=[])
    bench.directory.measured("a", Speed({1: 100}, 1))  # four steps: 0.4 s
    assert await bench.pool() == "a"


async def test_every_way_out_takes_the_load_off() -> None:
    bench = Bench(timeout_s=0.05, a=[paint, hang, die, fail("generation_failed")], b=[paint])
    await bench.pool()
    assert bench.idle()
    assert (await bench.error()).code == "timeout"
    assert bench.idle()
    await bench.pool()
    assert bench.idle()
    assert (await bench.error()).code == "generation_failed"
    assert bench.idle()
    task = asyncio.ensure_future(bench.dispatcher.paint(request(), Wishes(pin="a")))
    bench.handles["a"].scripts.append(hang)
    await asyncio.sleep(0.01)
    assert not bench.idle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.idle()


async def test_what_waits_too_long_is_refused_and_sent_nowhere() -> None:
    bench = Bench(live={"admission": {"max_wait_s": 5}}, a=[hang] * 4)
    bench.directory.measured("a", Speed({1: 1000}, 1))
    tasks = [asyncio.ensure_future(bench.pool()) for _ in range(2)]
    await asyncio.sleep(0.01)
    error = await bench.error()
    assert (error.code, error.retry_after_s) == ("overloaded", 3)  # two ahead, 4 s each, less 5
    assert bench.log == ["send a"] * 2
    assert bench.dispatcher.journal.refusals == {"overloaded": 1}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_deadline_that_cannot_be_kept_is_refused_at_once() -> None:
    bench = Bench(a=[paint])
    bench.directory.measured("a", Speed({1: 1000}, 1))
    began = time.monotonic()
    error = await bench.error(sent=request(time_left_s=2))
    assert (error.code, error.param, error.retry_after_s) == (
        "deadline_exceeded",
        "deadline_ms",
        None,
    )
    assert time.monotonic() - began < 1
    assert bench.log == []


async def test_a_policy_changed_live_rules_the_next_request() -> None:
    bench = Bench(a=[paint] * 9, b=[paint] * 9)
    assert [await bench.pool() for _ in range(3)] == ["a"] * 3
    bench.configure({"weights": {"a": 0}})
    assert [await bench.pool() for _ in range(3)] == ["b"] * 3
    bench.configure({"policy": "capacity"})
    assert sorted([await bench.pool() for _ in range(4)]) == ["a", "a", "b", "b"]


async def test_settings_that_leave_the_policy_alone_keep_its_round() -> None:
    bench = Bench(a=[paint] * 20, b=[paint] * 20)
    served = []
    for turn in range(20):
        bench.configure({"recovery": {"hang_after_s": 10 + turn}})
        served.append(await bench.pool())
    assert served.count("b") == 2


async def test_several_ingress_replicas_count_each_other_in() -> None:
    bench = Bench(a=[hang])
    bench.directory.measured("a", Speed({1: 1000}, 1))
    bench.states[INGRESS] = PoolState(ready=3)
    task = asyncio.ensure_future(bench.pool())
    await asyncio.sleep(0.01)
    assert bench.directory.snapshots()[0].load == Load(3, 3.0, 12.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_fair_turns_for_two_clients() -> None:
    served: list[str] = []
    bench = Bench(live={"fairness": {}}, a=[])
    bench.directory.measured("a", Speed({1: 1}, 2))  # room for 3 rows

    async def one(key: str) -> None:
        await bench.dispatcher.paint(request(), Wishes(key=key))
        served.append(key)

    async def soon() -> Answer:
        await asyncio.sleep(0.01)
        return RESULT

    bench.handles["a"].scripts = [soon] * 40
    flood = [asyncio.ensure_future(one("flood")) for _ in range(30)]
    await asyncio.sleep(0.005)
    small = [asyncio.ensure_future(one("small")) for _ in range(5)]
    await asyncio.gather(*flood, *small)
    assert max(index for index, key in enumerate(served) if key == "small") < 16
    assert bench.idle()
    assert bench.dispatcher.waiting == 0


async def test_who_waits_for_a_turn_is_told_its_place_and_every_change_of_it() -> None:
    bench = Bench(live={"fairness": {}}, a=[hang] * 3 + [paint] * 9)
    busy = [asyncio.create_task(bench.pool(key="flood")) for _ in range(3)]
    await asyncio.sleep(0.01)
    told: dict[str, list[Any]] = {"first": [], "second": [], "other": []}

    def wait(name: str, key: str) -> asyncio.Task[Any]:
        paint = bench.dispatcher.paint(request(), Wishes(key=key), told[name].append)
        return asyncio.create_task(paint)

    def places(name: str) -> list[int | None]:
        return [seen.place for seen in told[name] if isinstance(seen, Waiting)]

    tasks = []
    for name, key in (("first", "flood"), ("second", "flood"), ("other", "other")):
        tasks.append(wait(name, key))
        await asyncio.sleep(0.01)
    # A client with nothing in the queue is served before the second of one that has.
    assert (places("first"), places("second"), places("other")) == ([1], [2, 3], [2])
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert (places("second"), places("other")) == ([2, 3, 2], [2, 1])
    assert not any(isinstance(seen, Sent) for seen in told["other"])
    for task in busy:
        task.cancel()
    await asyncio.gather(*tasks[1:])
    assert [type(seen) for seen in told["other"]] == [Waiting, Waiting, Sent]


async def test_who_waits_for_a_first_replica_is_told_so() -> None:
    for live in ({}, {"fairness": {}}):
        bench = Bench(a=[paint], b=[], elastic=("a",), live=live)
        bench.states = {"a": GONE, "b": GONE}
        told: list[Any] = []
        task = asyncio.create_task(bench.dispatcher.paint(request(), Wishes(), told.append))
        await asyncio.sleep(0.05)
        assert told == [Waiting(place=None)]
        bench.states = {"a": UP, "b": GONE}
        await task
        assert [type(seen) for seen in told] == [Waiting, Sent]


async def test_a_turn_that_does_not_come_in_time_is_a_timeout() -> None:
    bench = Bench(timeout_s=0.3, live={"fairness": {}}, a=[hang] * 9)
    tasks = [asyncio.ensure_future(bench.error()) for _ in range(6)]
    for _ in range(9):  # before any time limit: what ends leaves its turn to the next
        await asyncio.sleep(0)
    assert bench.log.count("send a") == 3  # the room of a pool of unknown speed
    assert bench.dispatcher.waiting == 3
    assert {error.code for error in await asyncio.gather(*tasks)} == {"timeout"}
    assert bench.idle()


async def test_a_flood_is_refused_by_its_own_queue_and_others_are_not() -> None:
    bench = Bench(live={"fairness": {}, "admission": {"max_wait_s": 15}}, a=[hang] * 99)
    bench.directory.measured("a", Speed({1: 1000, 2: 1000}, 2))  # two rows a second, room for 3
    tasks = [asyncio.ensure_future(bench.pool(key="flood")) for _ in range(3)]
    await asyncio.sleep(0.01)
    queued = [asyncio.ensure_future(bench.pool(key="flood")) for _ in range(8)]
    await asyncio.sleep(0.01)
    assert (await bench.error(key="flood")).code == "overloaded"
    other = asyncio.ensure_future(bench.pool(key="other"))
    await asyncio.sleep(0.01)
    assert not other.done()
    assert bench.dispatcher.waiting == 9
    for task in (*tasks, *queued, other):
        task.cancel()
    await asyncio.gather(*tasks, *queued, other, return_exceptions=True)


async def test_what_was_decided_is_counted() -> None:
    bench = Bench(a=[paint, die, paint], b=[paint, paint])
    await bench.pool()
    await bench.pool()
    await bench.pool(pin="b")
    await bench.pool(sticky="a")
    journal = bench.dispatcher.journal
    assert journal.decisions == {
        ("a", "policy"): 2,
        ("b", "retry"): 1,
        ("b", "pinned"): 1,
        ("a", "sticky"): 1,
    }
    assert journal.failures == {("a", "lost"): 1}
    assert journal.retries == {"b": 1}


async def test_pinned_requests_do_not_take_the_other_pools_room() -> None:
    bench = Bench(live={"fairness": {}}, a=[hang] * 99, b=[paint] * 9)
    bench.directory.measured("a", Speed({1: 1}, 2))
    bench.directory.measured("b", Speed({1: 1}, 2))
    flood = [asyncio.ensure_future(bench.pool(key="flood", pin="a")) for _ in range(20)]
    await asyncio.sleep(0.01)
    assert await bench.pool(key="other", pin="b") == "b"
    assert bench.log.count("send a") == 3
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    assert bench.idle()


async def test_a_queue_of_a_pool_of_unknown_speed_is_no_reason_to_refuse() -> None:
    bench = Bench(live={"fairness": {}, "admission": {"max_wait_s": 1}}, a=[hang] * 99)
    tasks = [asyncio.ensure_future(bench.pool()) for _ in range(9)]
    await asyncio.sleep(0.01)
    assert bench.dispatcher.waiting == 6
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_was_admitted_is_not_refused_when_its_replica_is_lost() -> None:
    async def die_soon() -> Answer:
        await asyncio.sleep(0.05)
        raise ReplicaLostError("died")

    bench = Bench(live={"admission": {"max_wait_s": 1}}, a=[die_soon], b=[hang] * 2 + [paint])
    for name in ("a", "b"):
        bench.directory.measured(name, Speed({1: 1000}, 1))
    first = asyncio.ensure_future(bench.pool(pin="b"))
    await asyncio.sleep(0.01)
    bench.handles["b"].scripts.pop(0)
    assert await bench.pool() == "b"  # behind the first, four seconds by prediction
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_pool_that_misses_deadlines_by_far_is_left_alone() -> None:
    live = {"recovery": {"breaker_failures": 1}}
    bench = Bench(live=live, a=[hang], b=[paint] * 9)
    bench.directory.measured("a", Speed({1: 1}, 4))
    bench.directory.measured("b", Speed({1: 1}, 4))
    error = await bench.error(sent=request(time_left_s=1.3), pin="a")
    assert error.code == "deadline_exceeded"
    assert bench.directory.snapshots()[0].held
    assert [await bench.pool() for _ in range(3)] == ["b"] * 3


async def test_a_pool_that_only_fails_is_left_alone() -> None:
    live = {"recovery": {"breaker_failures": 1}}
    bench = Bench(live=live, a=[fail("generation_failed")], b=[paint] * 9)
    assert (await bench.error()).code == "generation_failed"
    assert [await bench.pool() for _ in range(3)] == ["b"] * 3


async def test_new_replicas_are_used_at_once() -> None:
    bench = Bench(live=BREAK_AT_ONCE, a=[die, paint], b=[paint] * 9)
    assert await bench.pool() == "b"
    bench.states["a"] = GONE
    assert await bench.pool() == "b"
    bench.states["a"] = UP
    painted = await bench.dispatcher.paint(request())
    assert (painted.pool.name, painted.reason) == ("a", "policy")


async def test_a_request_that_serve_cancels_is_painted_elsewhere() -> None:
    async def cancelled() -> Answer:
        raise asyncio.CancelledError

    bench = Bench(a=[cancelled], b=[paint])
    assert await bench.pool() == "b"


async def test_a_request_waits_for_a_first_replica_where_one_may_come() -> None:
    bench = Bench(a=[paint], b=[], elastic=("a",))
    bench.states = {"a": GONE, "b": GONE}
    task = asyncio.create_task(bench.pool())
    await asyncio.sleep(0.05)
    assert (bench.log, bench.dispatcher.holding) == ([], 1)
    bench.states = {"a": UP, "b": GONE}
    assert await task == "a"
    assert bench.dispatcher.holding == 0


async def test_it_waits_no_longer_than_allowed_and_not_where_none_can_come() -> None:
    bench = Bench(a=[], b=[], elastic=("a",), live={"admission": {"hold_s": 0.2}})
    bench.states = {"a": GONE, "b": GONE}
    began = time.monotonic()
    assert (await bench.error()).code == "unavailable"
    assert 0.2 <= time.monotonic() - began < 2
    began = time.monotonic()
    assert (await bench.error(pin="b")).code == "unavailable"
    assert time.monotonic() - began < 0.15
    assert bench.log == []


async def test_fair_turns_wait_for_a_first_replica_too() -> None:
    bench = Bench(a=[paint], b=[], elastic=("a",), live={"fairness": {}})
    bench.states = {"a": GONE, "b": GONE}
    task = asyncio.create_task(bench.pool())
    await asyncio.sleep(0.05)
    assert bench.dispatcher.holding == 1
    bench.states = {"a": UP, "b": GONE}
    assert await task == "a"


async def test_what_was_lost_with_the_last_replica_waits_for_the_next_pool() -> None:
    """Serve still lists the lost replica for a moment; sending there again would lose it twice."""
    bench = Bench(a=[die, die], b=[paint], elastic=("a", "b"))
    bench.states = {"a": UP, "b": GONE}
    task = asyncio.create_task(bench.pool())
    await asyncio.sleep(0.005)
    bench.states = {"a": GONE, "b": GONE}
    await asyncio.sleep(0.1)
    assert bench.log == ["send a", "cancel a"]
    bench.states = {"a": GONE, "b": UP}
    assert await task == "b"


async def test_what_elastic_pools_have_no_room_for_waits_here_and_is_for_new_replicas_too() -> None:
    live = {"policy": "latency"}
    bench = Bench(timeout_s=60, live=live, a=[hang] * 9, b=[hang] * 9, elastic=("a", "b"))
    bench.directory.measured("a", Speed({1: 1000, 2: 1000}, 2))  # room for 3 rows
    bench.directory.measured("b", Speed({1: 1000, 2: 1000}, 2))
    bench.states = {"a": UP, "b": GONE}
    asked = [asyncio.ensure_future(bench.pool(key=str(number))) for number in range(9)]
    await asyncio.sleep(0.02)
    assert (bench.log, bench.dispatcher.waiting) == (["send a"] * 3, 6)
    assert bench.meter.held_row_steps == 6 * 4
    bench.states = {"a": UP, "b": UP}
    asked.append(asyncio.ensure_future(bench.pool()))
    await asyncio.sleep(0.02)
    assert bench.log == ["send a"] * 3 + ["send b"] * 3
    assert bench.dispatcher.waiting == 4
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert bench.meter.held_row_steps == 0
    assert bench.idle()
