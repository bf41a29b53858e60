"""Streams of ``/imagine`` over real HTTP and Ray's streaming handles."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Service, assert_same_picture, pixels, replica_processes, wait_for
from tests.e2e.test_serve import start_picture

pytestmark = pytest.mark.e2e

Event = tuple[str, dict[str, Any]]


def parsed(lines: Iterator[str]) -> Iterator[Event]:
    """The events of a stream's lines; a comment has the name ":"."""
    name = ""
    for line in lines:
        if line.startswith(":"):
            yield ":", {"text": line[2:]}
        elif line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def stream(service: Service, **fields: Any) -> list[Event]:
    body = {"prompt": "a red circle", "stream": True, **fields}
    with service.client.stream("POST", "/imagine", json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers.get_list("x-request-id")
        return list(parsed(response.iter_lines()))


def picture(done: dict[str, Any], index: int = 0) -> bytes:
    return base64.b64decode(done["data"][index]["b64_json"])


def test_steps_previews_and_the_same_picture_as_without(service: Service) -> None:
    fields = {"seed": 21, "num_inference_steps": 60, "partial_images": 3}
    events = stream(service, **fields)
    names = [name for name, _ in events]
    assert names[0] == "queued"
    assert names[-1] == "done"
    steps = [data["step"] for name, data in events if name == "step"]
    assert len(steps) >= 2
    assert steps == sorted(steps)
    assert steps[-1] <= 60
    previews = [data for name, data in events if name == "preview"]
    assert [(p["preview"], p["step"], p["steps"]) for p in previews] == [
        (0, 15, 60),
        (1, 30, 60),
        (2, 45, 60),
    ]
    assert all(pixels(base64.b64decode(p["b64_json"])).shape == (64, 64, 3) for p in previews)
    plain = service.post(seed=21, num_inference_steps=60)
    assert_same_picture(picture(events[-1][1]), plain.content)


def test_several_pictures_and_inpainting(service: Service) -> None:
    fields = {"image": start_picture(), "mask": start_picture(), "num_inference_steps": 10}
    events = stream(service, n=2, seed=5, width=96, **fields)
    name, done = events[-1]
    assert name == "done"
    assert [item["seed"] for item in done["data"]] == [5, 6]
    plain = service.post(n=2, seed=5, width=96, **fields).json()
    for index, item in enumerate(plain["data"]):
        assert pixels(picture(done, index)).shape == (64, 96, 3)
        assert_same_picture(picture(done, index), base64.b64decode(item["b64_json"]))


def test_an_error_at_once_keeps_its_status(service: Service) -> None:
    response = service.post(stream=True, pool="gpu")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["x-should-retry"] == "true"


async def lines_of(client: httpx.AsyncClient, **fields: Any) -> AsyncGenerator[str, None]:
    body = {"prompt": "a", "stream": True, "num_inference_steps": 100, **fields}
    async with client.stream("POST", "/imagine", json=body) as response:
        async for line in response.aiter_lines():
            yield line


async def until(lines: AsyncGenerator[str, None], text: str) -> str:
    """The first line that holds ``text``."""
    async for line in lines:
        if text in line:
            return line
    raise AssertionError(f"no line holds {text!r}")


async def test_closing_the_connection_frees_the_slots(service: Service) -> None:
    """The replica, busy with pictures that would take it long, is soon idle."""
    (replica,) = replica_processes("cpu")
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        streams = [lines_of(client, n=4, seed=4 * s) for s in range(4)]
        for one in streams:
            await until(one, "event: queued")
        await until(streams[0], "event: step")
        assert service.pool("cpu")["queue"]["requests"] == 16
        for one in streams:
            await one.aclose()
    wait_for("an empty queue", lambda: service.pool("cpu")["queue"]["requests"] == 0, 20)
    await asyncio.sleep(1)
    before = replica.cpu_times().user
    await asyncio.sleep(2)
    # Sixteen pictures of a hundred steps would keep it busy all the time.
    assert replica.cpu_times().user - before < 0.2


async def test_who_waits_is_told_its_place(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        busy = [lines_of(client, n=4, seed=4 * s) for s in range(5)]  # 40 rows, 16 at once
        for one in busy:
            await until(one, "event: queued")
        waiter = lines_of(client, num_inference_steps=2)
        first = json.loads((await until(waiter, '"place":1'))[6:])
        # So many of those before it do not fit that it is told of several places.
        assert first["place"] >= 10
        for one in busy:
            await one.aclose()
        places = [json.loads(line[6:])["place"] async for line in waiter if '"place":' in line]
    assert places == sorted(places, reverse=True)
