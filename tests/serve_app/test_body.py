"""Reading bodies: what is held at once, and what the event loop is spared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from serve_app.api import body as body_module
from serve_app.api.application import create_app
from serve_app.api.body import JsonBodies
from serve_app.api.errors import ApiError
from serve_app.api.quoting import shorten
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
    bodies = JsonBodies(LimitSettings(), pool)
    assert await read(bodies, b'{"prompt": "a"}') == {"prompt": "a"}
    assert pool.calls == 0
    assert len((await read(bodies, with_image(1)))["image"]) == MB
    assert pool.calls == 1


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"1,", b'"ab",'])
async def test_a_large_body_that_cannot_be_a_request_is_not_parsed(unit: bytes) -> None:
    pool = CountingPool(1)
    raw = b'{"prompt": "a", "n": [' + unit * (MB // len(unit)) + b"1]}"
    with pytest.raises(ApiError, match="too many values"):
        await read(JsonBodies(LimitSettings(), pool), raw)
    assert pool.calls == 0


async def test_long_text_that_is_not_base64_goes_at_once() -> None:
    raw = json.dumps({"prompt": "🎨", "image": "A" * MB + "🎨"}, ensure_ascii=False).encode()
    with pytest.raises(ApiError, match="only base64"):
        await read(JsonBodies(LimitSettings(), CountingPool(1)), raw)


async def test_brackets_and_commas_in_a_prompt_are_text() -> None:
    body = {"prompt": "[,]{" * 500, "negative_prompt": "," * 2000, "image": "A" * MB}
    assert await read(JsonBodies(LimitSettings(), CountingPool(1)), json.dumps(body).encode())


async def test_the_bytes_held_at_once_are_bounded() -> None:
    bodies, end = JsonBodies(LimitSettings(), CountingPool(1)), asyncio.Event()
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
    bodies, end = JsonBodies(LimitSettings(), CountingPool(1)), asyncio.Event()
    for _ in range(5):
        slow = asyncio.ensure_future(read(bodies, with_image(11), end))
        await asyncio.sleep(0.02)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        with pytest.raises(ApiError):
            await read(bodies, with_image(11)[:-1])
    assert await read(bodies, with_image(11.5))


async def test_a_stalled_body_is_refused_and_no_longer_held() -> None:
    bodies = JsonBodies(LimitSettings(body_timeout_s=0.2), CountingPool(1))
    stalled = [asyncio.ensure_future(read(bodies, with_image(11), asyncio.Event())) for _ in "ab"]
    async with asyncio.timeout(5):
        errors = await asyncio.gather(*stalled, return_exceptions=True)
    for error in errors:
        assert isinstance(error, ApiError)
        assert (error.status, error.code) == (408, "body_timeout")
        assert "0.2 s" in error.message
    assert await read(bodies, with_image(11))


async def test_the_time_for_a_body_is_not_the_time_for_its_picture() -> None:
    bodies = JsonBodies(LimitSettings(body_timeout_s=0.05), CountingPool(1))
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
