"""The dispatcher over fake handles: retry, cancel, limits, never an unavailable pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.messages import ImageFailure, ImageRequest, ImageResult, Timings
from serve_app.routing.dispatcher import Dispatcher, DispatchError, ReplicaLostError
from serve_app.routing.snapshot import PoolSnapshot
from serve_app.routing.weighted import WeightedPolicy
from tests.serve_app.conftest import snapshot

Answer = ImageResult | ImageFailure
Script = Callable[[], Coroutine[Any, Any, Answer]]

RESULT = ImageResult(
    image=b"png",
    media_type="image/png",
    seed=1,
    timings=Timings(queue=0, encode=0, denoise=0, decode=0, total=0),
)


def request(deadline: float | None = None) -> ImageRequest:
    return ImageRequest(
        request_id="r",
        prompt="a",
        negative_prompt="",
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=1,
        seed=1,
        deadline=deadline,
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

    def generate(self, request: ImageRequest) -> FakeReply:
        self.log.append(f"send {self.pool}")
        self.requests.append(request)
        return FakeReply(self.scripts.pop(0), self.log, self.pool)


@dataclass
class Pools:
    now: list[PoolSnapshot]

    def snapshots(self) -> list[PoolSnapshot]:
        return self.now


class Bench:
    """A dispatcher over pools ``a`` (preferred) and ``b`` with scripted answers."""

    def __init__(self, *, timeout_s: float = 5, **scripts: list[Script]) -> None:
        self.log: list[str] = []
        self.handles = {n: FakeHandle(n, list(s), self.log) for n, s in scripts.items()}
        weights = {"a": 90, "b": 10}
        self.pools = Pools([snapshot(name, weight=weights[name]) for name in scripts])
        self.dispatcher = Dispatcher(
            self.handles,
            self.pools,
            WeightedPolicy(),
            timeout_s=timeout_s,
            watch_s=0.01,
            aside_s=0.2,
        )

    async def error(self, **kwargs: Any) -> DispatchError:
        with pytest.raises(DispatchError) as caught:
            await self.dispatcher.paint(kwargs.pop("request", request()), **kwargs)
        return caught.value


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


async def test_lost_twice_is_given_up() -> None:
    bench = Bench(a=[die], b=[die])
    error = await bench.error()
    assert error.code == "lost"
    assert error.retry_after_s
    assert bench.log == ["send a", "cancel a", "send b", "cancel b"]


async def test_the_only_pool_is_tried_again() -> None:
    bench = Bench(a=[die, paint])
    assert (await bench.dispatcher.paint(request())).pool.name == "a"
    assert bench.log == ["send a", "cancel a", "send a"]


async def test_a_pinned_request_never_leaves_its_pool() -> None:
    bench = Bench(a=[paint], b=[die, die])
    error = await bench.error(pin="b")
    assert error.code == "lost"
    assert bench.log == ["send b", "cancel b", "send b", "cancel b"]


async def test_a_retryable_failure_is_retried_elsewhere() -> None:
    bench = Bench(a=[fail("device_error", retryable=True)], b=[paint])
    assert (await bench.dispatcher.paint(request())).pool.name == "b"


async def test_a_pool_with_a_device_error_is_set_aside_for_a_while() -> None:
    bench = Bench(a=[fail("device_error", retryable=True), paint], b=[paint] * 4)
    for _ in range(4):
        assert (await bench.dispatcher.paint(request())).pool.name == "b"
    assert bench.log.count("send a") == 1
    await asyncio.sleep(0.25)
    assert (await bench.dispatcher.paint(request())).pool.name == "a"


async def test_the_retry_avoids_a_pool_set_aside_meanwhile() -> None:
    async def later() -> Answer:
        await asyncio.sleep(0.05)
        raise ReplicaLostError("late")

    bench = Bench(a=[later, paint], b=[fail("device_error", retryable=True)] * 2)
    first = asyncio.ensure_future(bench.dispatcher.paint(request()))
    await asyncio.sleep(0.01)
    assert (await bench.error(pin="b")).code == "device_error"
    assert (await first).pool.name == "a"


async def test_the_only_available_pool_is_never_set_aside() -> None:
    bench = Bench(a=[fail("device_error", retryable=True), paint, paint], b=[])
    bench.pools.now = [snapshot("a", weight=90), snapshot("b", ready=0)]
    for _ in range(2):
        assert (await bench.dispatcher.paint(request())).pool.name == "a"


async def test_a_pinned_request_goes_to_a_pool_set_aside() -> None:
    bench = Bench(a=[fail("device_error", retryable=True), paint], b=[paint])
    await bench.dispatcher.paint(request())
    assert (await bench.dispatcher.paint(request(), pin="a")).pool.name == "a"


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
    error = await bench.error(request=request(deadline=time.time() + 0.1))
    assert (error.code, error.param) == ("deadline_exceeded", "deadline_ms")
    assert bench.log == ["send a", "cancel a"]


async def test_after_the_deadline_nothing_is_sent() -> None:
    bench = Bench(a=[paint])
    assert (await bench.error(request=request(deadline=time.time() - 1))).code == (
        "deadline_exceeded"
    )
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
    bench.pools.now = [snapshot("a", weight=90, ready=0), snapshot("b", weight=10)]
    await bench.dispatcher.paint(request())
    assert bench.log == ["send b"]
    error = await bench.error(pin="a")
    assert (error.code, error.param) == ("unavailable", "pool")
    bench.pools.now = [snapshot("a", ready=0), snapshot("b", ready=0)]
    error = await bench.error()
    assert error.code == "unavailable"
    assert error.retry_after_s
    assert "a: no replica" in str(error)
    assert "b: no replica" in str(error)
    assert bench.log == ["send b"]


async def test_a_pool_whose_last_replica_is_gone_is_left() -> None:
    bench = Bench(a=[hang], b=[paint])
    task = asyncio.ensure_future(bench.dispatcher.paint(request()))
    await asyncio.sleep(0.05)
    bench.pools.now = [snapshot("a", weight=90, ready=0), snapshot("b", weight=10)]
    assert (await task).pool.name == "b"
    assert bench.log == ["send a", "cancel a", "send b"]


@pytest.mark.parametrize("state", ["draining", "updating"])
async def test_a_pool_that_takes_nothing_new_may_finish(state: str) -> None:
    async def slowly() -> Answer:
        await asyncio.sleep(0.2)
        return RESULT

    bench = Bench(a=[slowly], b=[])
    task = asyncio.ensure_future(bench.dispatcher.paint(request()))
    await asyncio.sleep(0.05)
    bench.pools.now = [snapshot("a", weight=90, ready=0, **{state: 1}), snapshot("b")]
    assert (await task).pool.name == "a"


async def test_an_unexpected_error_passes_and_leaves_nothing_running() -> None:
    async def boom() -> Answer:
        raise RuntimeError("boom")

    bench = Bench(a=[boom], b=[paint])
    with pytest.raises(RuntimeError):
        await bench.dispatcher.paint(request())
    assert bench.log == ["send a", "cancel a"]
