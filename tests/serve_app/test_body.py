"""Reading bodies: what is held at once, and what the event loop is spared."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from serve_app.api import body as body_module
from serve_app.api import slow_bodies as slow_module
from serve_app.api.application import create_app
from serve_app.api.body import JsonBodies
from serve_app.api.errors import ApiError
from serve_app.api.quoting import shorten
from serve_app.api.slow_bodies import SlowBodies
from serve_app.settings import LimitSettings
from tests.serve_app.conftest import FakePainter, Stand

MB = 2**20


class CountingPool(ThreadPoolExecutor):
    calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().submit(fn, *args, **kwargs)


def request(raw: bytes, then: asyncio.Event | None = None) -> Request:
    """A request that sends ``raw``, and its end only after ``then``."""
    parts = [raw[start : start + MB] for start in range(0, len(raw), MB)]

    async def receive() -> Any:
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": True}
        if then is not None:
            await then.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"content-type", b"application/json")]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def with_image(megabytes: float) -> bytes:
    return json.dumps({"prompt": "a", "image": "A" * int(megabytes * MB)}).encode()


async def read(bodies: JsonBodies, raw: bytes, then: asyncio.Event | None = None) -> Any:
    async with bodies.open(request(raw, then)) as body:
        return body


async def test_only_large_bodies_leave_the_event_loop() -> None:
    pool = CountingPool(1)
    bodies = JsonBodies(LimitSettings(), SlowBodies(1024), pool)
    assert await read(bodies, b'{"prompt": "a"}') == {"prompt": "a"}
    assert pool.calls == 0
    assert len((await read(bodies, with_image(1)))["image"]) == MB
    assert pool.calls == 1


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"1,", b'"ab",'])
async def test_a_large_body_that_cannot_be_a_request_is_not_parsed(unit: bytes) -> None:
    pool = CountingPool(1)
    raw = b'{"prompt": "a", "n": [' + unit * (MB // len(unit)) + b"1]}"
    with pytest.raises(ApiError, match="too many values"):
        await read(JsonBodies(LimitSettings(), SlowBodies(1024), pool), raw)
    assert pool.calls == 0


async def test_long_text_that_is_not_base64_goes_at_once() -> None:
    raw = json.dumps({"prompt": "🎨", "image": "A" * MB + "🎨"}, ensure_ascii=False).encode()
    with pytest.raises(ApiError, match="only base64"):
        await read(JsonBodies(LimitSettings(), SlowBodies(1024), CountingPool(1)), raw)


async def test_brackets_and_commas_in_a_prompt_are_text() -> None:
    body = {"prompt": "[,]{" * 500, "negative_prompt": "," * 2000, "image": "A" * MB}
    assert await read(
        JsonBodies(LimitSettings(), SlowBodies(1024), CountingPool(1)), json.dumps(body).encode()
    )


async def test_the_bytes_held_at_once_are_bounded() -> None:
    bodies, end = JsonBodies(LimitSettings(), SlowBodies(1024), CountingPool(1)), asyncio.Event()
    slow = [asyncio.ensure_future(read(bodies, with_image(11), end)) for _ in range(2)]
    await asyncio.sleep(0.05)
    with pytest.raises(ApiError) as caught:
        await read(bodies, with_image(11))
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
    # Plain requests pass even so.
    assert await read(bodies, b'{"prompt": "a"}')
    end.set()
    await asyncio.gather(*slow)
    assert await read(bodies, with_image(11))


async def test_a_body_given_up_is_no_longer_held() -> None:
    bodies, end = JsonBodies(LimitSettings(), SlowBodies(1024), CountingPool(1)), asyncio.Event()
    for _ in range(5):
        slow = asyncio.ensure_future(read(bodies, with_image(11), end))
        await asyncio.sleep(0.02)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        with pytest.raises(ApiError):
            await read(bodies, with_image(11)[:-1])
    assert await read(bodies, with_image(11.5))


async def test_a_stalled_body_is_refused_and_no_longer_held() -> None:
    bodies = JsonBodies(LimitSettings(body_timeout_s=0.2), SlowBodies(1024), CountingPool(1))
    stalled = [asyncio.ensure_future(read(bodies, with_image(11), asyncio.Event())) for _ in "ab"]
    async with asyncio.timeout(5):
        errors = await asyncio.gather(*stalled, return_exceptions=True)
    for error in errors:
        assert isinstance(error, ApiError)
        assert (error.status, error.code) == (408, "body_timeout")
        assert "0.2 s" in error.message
    assert await read(bodies, with_image(11))


def from_address(address: str, then: asyncio.Event) -> Request:
    """A request by ``address`` whose body ends only after ``then``."""
    made = request(b'{"prompt": "a"}', then)
    made.scope["client"] = (address, 1)
    return made


async def test_slow_bodies_are_bounded_by_caller_and_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_module, "GRACE_S", 0.1)
    slow, end = SlowBodies(32), asyncio.Event()
    bodies = JsonBodies(LimitSettings(), slow, CountingPool(1))

    async def one(address: str) -> Any:
        async with bodies.open(from_address(address, end)) as body:
            return body

    def refusals(tasks: list[asyncio.Task[Any]]) -> list[ApiError]:
        found = [task.exception() for task in tasks if task.done()]
        assert all(isinstance(error, ApiError) for error in found)
        return [error for error in found if isinstance(error, ApiError)]

    greedy = [asyncio.create_task(one("192.0.2.1")) for _ in range(5)]
    await asyncio.sleep(0.3)
    first, *_ = three = refusals(greedy)  # two of 32 places are for one caller
    assert len(three) == 3
    assert (first.status, first.code, first.headers["Retry-After"]) == (429, "overloaded", "1")
    many = [asyncio.create_task(one(f"198.51.100.{number}")) for number in range(9)]
    await asyncio.sleep(0.3)
    assert len(refusals(many)) == 3  # eight for all
    assert len(slow) == 8
    # Who is quick is not counted, and what has come is read to its end.
    assert await read(bodies, b'{"prompt": "b"}') == {"prompt": "b"}
    end.set()
    done = await asyncio.gather(*greedy, *many, return_exceptions=True)
    assert done.count({"prompt": "a"}) == 8
    assert len(slow) == 0


async def test_the_time_for_a_body_is_not_the_time_for_its_picture() -> None:
    bodies = JsonBodies(LimitSettings(body_timeout_s=0.05), SlowBodies(1024), CountingPool(1))
    async with bodies.open(request(b'{"prompt": "a"}')) as body:
        await asyncio.sleep(0.2)
        assert body == {"prompt": "a"}


def test_a_body_is_let_go_before_painting(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[int] = []
    made: list[JsonBodies] = []

    class Recorded(JsonBodies):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    class Painter(FakePainter):
        async def paint(self, *args: Any) -> Any:
            rooms.append(made[0]._room)
            return await super().paint(*args)

    monkeypatch.setattr("serve_app.api.intake.JsonBodies", Recorded)
    stand.front.painter = Painter()
    with TestClient(create_app(stand.front)) as client:
        response = client.post("/imagine", json={"prompt": "a", "width": None, "image": None})
        assert response.status_code == 200
        raw = '{"prompt": "a"' + " " * 150_000 + "}"
        response = client.post(
            "/imagine", content=raw, headers={"content-type": "application/json"}
        )
        assert response.status_code == 200
    assert rooms == [body_module._IN_FLIGHT_BYTES] * 2


@pytest.mark.parametrize(
    "value",
    [[[]] * 10**6, {str(i): i for i in range(10**5)}, ["x" * 10**7], [[["é" * 99] * 9] * 9] * 9],
)
def test_shorten_looks_at_no_more_than_it_shows(value: Any) -> None:
    text = shorten(value)
    assert len(text) <= 80
    assert text.isascii()


def test_shorten_survives_any_depth() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert shorten(value) == "[[[[...]]]]"


async def test_a_body_is_not_slow_because_the_ingress_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_module, "GRACE_S", 0.05)
    slow, never, soon = SlowBodies(1), asyncio.Event(), asyncio.Event()
    bodies = JsonBodies(LimitSettings(), slow, CountingPool(1))

    async def one(then: asyncio.Event) -> Any:
        async with bodies.open(from_address("192.0.2.1", then)) as body:
            return body

    first = asyncio.create_task(one(never))  # has the only place for slow bodies
    await asyncio.sleep(0.2)
    assert len(slow) == 1
    second = asyncio.create_task(one(soon))
    await asyncio.sleep(0.01)
    time.sleep(0.4)  # noqa: ASYNC251 - the event loop stands still, as under a burst of requests
    asyncio.get_running_loop().call_later(0.02, soon.set)  # it had come meanwhile, is read now
    assert await second == {"prompt": "a"}
    never.set()
    await first
