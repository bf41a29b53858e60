"""The threads around the engine: one answer each, no lost wake-up, nothing left at the end."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from deployments.engine.job import Job
from deployments.engine.service import EngineService
from deployments.messages import ImageFailure, ImageResult
from tests.deployments.harness import FakeBackend, ask, result, solo

Make = Callable[..., Awaitable[EngineService]]


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Make]:
    services: list[EngineService] = []

    async def start(finish: Any = result, backend: Any = None, **settings: Any) -> EngineService:
        defaults: dict[str, Any] = {"max_rows": 6, "max_queued": 100, "admission": "deadline"}
        service = EngineService(backend or FakeBackend(), finish, **(defaults | settings))
        services.append(service)
        return service

    yield start
    for service in services:
        service.stop()


def failed(answer: Any) -> ImageFailure:
    assert isinstance(answer, ImageFailure), answer
    return answer


async def test_64_at_once_with_cancellations(make: Make) -> None:
    service = await make()
    dice = random.Random(0)
    asked = [
        ask(seed=i, num_inference_steps=1 + i % 9, guidance_scale=1.0 + i % 2 * 3)
        for i in range(64)
    ]
    tasks = [asyncio.create_task(service.generate(r)) for r in asked]
    leaving = dice.sample(range(64), 16)
    for i in leaving:
        await asyncio.sleep(0.002)
        tasks[i].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for i, (request, answer) in enumerate(zip(asked, answers, strict=True)):
        if isinstance(answer, asyncio.CancelledError):
            assert i in leaving
        else:
            assert isinstance(answer, ImageResult), answer
            assert answer.image == solo(FakeBackend(), request)[1]
    assert service.open == 0
    service.check()


async def test_a_cancelled_request_leaves_the_engine(make: Make) -> None:
    service = await make(backend=SlowBackend())
    task = asyncio.create_task(service.generate(ask(num_inference_steps=900)))
    await until(lambda: service.engine.rows == 2)
    task.cancel()
    await until(lambda: service.engine.rows == 0)
    assert isinstance(await service.generate(ask()), ImageResult)


async def test_full_queue_refuses(make: Make) -> None:
    service = await make(backend=SlowBackend(), max_rows=2, max_queued=1)
    tasks = [asyncio.create_task(service.generate(ask(num_inference_steps=900))) for _ in range(3)]
    await asyncio.sleep(0)
    failure = failed(await service.generate(ask()))
    assert (failure.code, failure.retryable) == ("overloaded", True)
    for task in tasks:
        task.cancel()


async def test_preparing_fails_alone(make: Make) -> None:
    service = await make()
    refused, clumsy, exploded, answer = await asyncio.gather(
        *(
            service.generate(r)
            for r in (
                ask(num_inference_steps=1001),  # the scheduler was trained on 1,000
                ask(prompt="refuse"),
                ask(prompt="explode"),
                ask(),
            )
        )
    )
    assert failed(refused).code == "invalid_request"
    assert "1001 steps" in failed(refused).message
    # A ValueError of ours is not the client's fault.
    assert failed(clumsy).code == failed(exploded).code == "generation_failed"
    assert isinstance(answer, ImageResult)
    service.check()


async def test_encoding_fails_alone(make: Make) -> None:
    def finish(job: Job, picture: NDArray[np.uint8]) -> ImageResult:
        if job.request.seed == 7:
            raise OSError("disk")
        return result(job, picture)

    service = await make(finish)
    bad, good = await asyncio.gather(service.generate(ask(seed=7)), service.generate(ask(seed=8)))
    assert failed(bad).code == "generation_failed"
    assert isinstance(good, ImageResult)
    service.check()


@pytest.mark.parametrize("part", ["denoise", "decode"])
async def test_device_fault_answers_everything_and_shows_in_check(make: Make, part: str) -> None:
    backend = FakeBackend()
    service = await make(backend=backend)

    def explode(_: Any) -> Any:
        raise RuntimeError("CUDA error")

    setattr(backend, part, explode)
    answers = await asyncio.gather(
        *(service.generate(ask(num_inference_steps=1 + i)) for i in range(12))
    )
    for answer in answers:
        failure = failed(answer)
        assert (failure.code, failure.retryable) == ("device_error", True)
    with pytest.raises(RuntimeError, match="CUDA error"):
        service.check()
    assert failed(await service.generate(ask())).code == "device_error"


async def test_a_bug_in_the_loop_answers_everything_and_shows_in_check(make: Make) -> None:
    service = await make()

    def bug() -> None:
        raise KeyError("bug")

    service.engine.step = bug  # type: ignore[method-assign]
    assert failed(await service.generate(ask())).code == "device_error"
    with pytest.raises(RuntimeError, match="bug"):
        service.check()


async def test_deadline(make: Make) -> None:
    service = await make(backend=SlowBackend())
    request = ask(num_inference_steps=900, time_left_s=0.1)
    assert failed(await service.generate(request)).code == "deadline_exceeded"


async def test_bursts_after_idle_wake_the_loop(make: Make) -> None:
    service = await make()
    for _ in range(60):
        request = ask(num_inference_steps=1, guidance_scale=1.0)
        answer = await asyncio.wait_for(service.generate(request), 10)
        assert isinstance(answer, ImageResult)


async def test_stop_answers_what_is_left_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    service = EngineService(SlowBackend(), result, max_rows=2, max_queued=100, admission="deadline")
    tasks = [asyncio.create_task(service.generate(ask(num_inference_steps=900))) for _ in range(20)]
    await asyncio.sleep(0.02)
    await asyncio.to_thread(service.stop)
    for answer in await asyncio.wait_for(asyncio.gather(*tasks), 10):
        failure = failed(answer)
        assert (failure.code, failure.retryable) == ("device_error", True)
    late = failed(await service.generate(ask()))
    assert (late.code, late.retryable) == ("device_error", True)
    with pytest.raises(RuntimeError):
        service.check()
    ours = [t for t in set(threading.enumerate()) - before if "asyncio" not in t.name]
    assert ours == []
    service.stop()


def test_a_caller_whose_loop_has_closed_does_not_end_the_engine() -> None:
    service = EngineService(SlowBackend(), result, max_rows=2, max_queued=9, admission="deadline")

    async def leave() -> None:
        task = asyncio.create_task(service.generate(ask(num_inference_steps=900)))
        await until(lambda: service.engine.rows == 2)
        task.cancel()

    try:
        asyncio.run(leave())
        time.sleep(0.1)
        assert isinstance(asyncio.run(service.generate(ask())), ImageResult)
        service.check()
    finally:
        service.stop()


async def test_embeddings_are_kept(make: Make) -> None:
    backend = FakeBackend()
    service = await make(backend=backend)
    for _ in range(3):
        await service.generate(ask(prompt="same"))
    assert sorted(backend.encoded) == ["", "same"]


class SlowBackend(FakeBackend):
    """A step takes five milliseconds."""

    def denoise(self, batch: Any) -> Any:
        time.sleep(0.005)
        return super().denoise(batch)


async def until(check: Callable[[], bool]) -> None:
    """Poll for at most ten seconds."""
    for _ in range(2000):
        if check():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not within 10 s")


class HungBackend(FakeBackend):
    """Stops at ``where`` until it is let go."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.change(overlap_decode=True)
        self.where = where
        self.let_go = threading.Event()

    def denoise(self, batch: Any) -> Any:
        if self.where == "step":
            self.let_go.wait(30)
        return super().denoise(batch)

    def decode(self, latents: Any) -> Any:
        if self.where == "decoding":
            self.let_go.wait(30)
        return super().decode(latents)


@pytest.mark.parametrize("where", ["step", "decoding"])
async def test_a_device_that_hangs_is_reported(make: Make, where: str) -> None:
    backend = HungBackend(where)
    service = await make(backend=backend, hang_after_s=0.5)
    task = asyncio.create_task(service.generate(ask()))
    await asyncio.sleep(0.05)
    service.check()
    await asyncio.sleep(0.8)
    with pytest.raises(RuntimeError, match=f"the device hangs: one {where} takes over 0.5 s"):
        service.check()
    backend.let_go.set()
    assert isinstance(await task, ImageResult)
    async with asyncio.timeout(10):  # the picture is delivered just before the decoding ends
        while service.engine.decoding_since is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    service.check()


async def test_a_device_that_dies_while_idle_is_found_in_preparation(make: Make) -> None:
    backend = FakeBackend()
    service = await make(backend=backend)

    def dead(text: str) -> Any:
        raise RuntimeError("CUDA error: device lost")

    backend.encode_prompt = dead  # type: ignore[method-assign]
    failure = failed(await service.generate(ask(prompt="new")))
    assert (failure.code, failure.retryable) == ("device_error", True)
    with pytest.raises(RuntimeError, match="device lost"):
        service.check()


@pytest.mark.parametrize(("height", "param"), [(16, "width"), (24, "width"), (32, "height")])
async def test_a_size_that_was_not_compiled_is_refused_before_it_is_prepared(
    make: Make, height: int, param: str
) -> None:
    backend = FakeBackend()
    backend.change(sizes=((16, 16), (24, 24)))
    service = await make(backend=backend)
    width = 24 if param == "height" else 32
    failure = failed(await service.generate(ask(width=width, height=height)))
    assert (failure.code, failure.param, failure.retryable) == ("invalid_request", param, True)
    assert "16 x 16, 24 x 24" in failure.message
    assert backend.encoded == []
    assert isinstance(await service.generate(ask(width=24, height=24)), ImageResult)
