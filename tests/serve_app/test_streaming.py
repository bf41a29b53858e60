"""``/imagine`` with ``stream``: the events, and what becomes of the work when the client leaves."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn

from deployments.messages import ImagePreview, ImageProgress
from serve_app.api.application import create_app
from serve_app.routing.outcome import DispatchError, Painted
from serve_app.routing.watching import Sent, Waiting
from tests.serve_app.conftest import FakePainter, Stand, snapshot
from tests.serve_app.test_bad_requests import check_error
from tests.serve_app.test_dispatcher import Bench, hang, paint
from tests.serve_app.test_imagine import DISPATCH_ERRORS, post

Event = tuple[str, dict[str, Any]]
SENT = Sent(pool=snapshot("cpu"), attempt=1)
PREVIEW = ImagePreview(index=0, step=2, steps=4, image=b"jpeg", media_type="image/jpeg")
STORY = (
    SENT,
    ImageProgress(step=0, steps=4, place=2),
    ImageProgress(step=1, steps=4),
    PREVIEW,
    ImageProgress(step=4, steps=4),
)


def parse(text: str) -> tuple[list[Event], list[str]]:
    """Events and comments of a stream, read as the specification says."""
    events: list[Event] = []
    comments = []
    assert text.endswith("\n\n")
    for block in text[:-2].split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith(":"):
            comments.append(lines[0][1:].strip())
        else:
            name, data = lines
            assert name.startswith("event: ")
            assert data.startswith("data: ")
            events.append((name[7:], json.loads(data[6:])))
    return events, comments


def test_the_whole_story(stand: Stand) -> None:
    stand.painter.happens = STORY
    response = post(stand, stream=True, seed=7, partial_images=1)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-seed"] == "7"
    assert response.headers["x-request-id"]
    events, comments = parse(response.text)
    assert comments == []
    assert events[:-1] == [
        ("queued", {"index": 0, "place": None, "pool": "cpu"}),
        ("queued", {"index": 0, "place": 2, "pool": "cpu"}),
        ("step", {"index": 0, "step": 1, "steps": 4}),
        (
            "preview",
            {
                "index": 0,
                "preview": 0,
                "step": 2,
                "steps": 4,
                "media_type": "image/jpeg",
                "b64_json": base64.b64encode(b"jpeg").decode(),
            },
        ),
        ("step", {"index": 0, "step": 4, "steps": 4}),
    ]
    name, done = events[-1]
    plain = post(stand, {"accept": "application/json"}, seed=7).json()
    assert name == "done"
    assert done | {"created": 0} == plain | {"created": 0}
    assert stand.painter.requests[0].previews == 1


WAITING = (Waiting(place=None), Waiting(place=3), Waiting(place=1), *STORY)


def test_who_waits_in_the_ingress_is_told_its_place(stand: Stand) -> None:
    stand.painter.happens = WAITING
    events, _ = parse(post(stand, stream=True).text)
    told = [(data["place"], data["pool"]) for name, data in events if name == "queued"]
    assert told == [(None, None), (3, None), (1, None), (None, "cpu"), (2, "cpu")]


def test_who_is_refused_after_waiting_gets_the_status(stand: Stand) -> None:
    stand.painter.happens = (Waiting(place=3),)
    stand.painter.failure = DispatchError("overloaded", "full", retry_after_s=5)
    check_error(post(stand, stream=True), 429, None)


async def test_with_fairness_a_stream_begins_with_the_place_in_the_ingress(stand: Stand) -> None:
    bench = Bench(live={"fairness": {}}, a=[hang] * 3 + [paint])
    stand.front.painter = bench.dispatcher
    busy = [asyncio.create_task(bench.pool()) for _ in range(3)]  # all the room of that pool
    await asyncio.sleep(0.01)
    transport = httpx.ASGITransport(create_app(stand.front))
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        answer = asyncio.create_task(client.post("/imagine", json={"prompt": "a", "stream": True}))
        async with asyncio.timeout(5):
            while not bench.dispatcher.waiting:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        for task in busy:
            task.cancel()
        events, _ = parse((await answer).text)
    assert [data for name, data in events if name == "queued"] == [
        {"index": 0, "place": 1, "pool": None},
        {"index": 0, "place": None, "pool": "a"},
    ]
    assert events[-1][0] == "done"


def test_several_pictures_in_one_stream(stand: Stand) -> None:
    stand.painter.happens = STORY
    events, _ = parse(post(stand, stream=True, n=3, seed=1).text)
    assert [name for name, _ in events].count("step") == 6
    assert {data["index"] for name, data in events if name != "done"} == {0, 1, 2}
    assert [item["seed"] for item in events[-1][1]["data"]] == [1, 2, 3]


@pytest.mark.parametrize("accept", ["image/png", "text/html", "application/json", ""])
def test_a_stream_is_sent_whatever_accept_says(stand: Stand, accept: str) -> None:
    assert parse(post(stand, {"accept": accept}, stream=True).text)[0][-1][0] == "done"


def test_get_streams_too(stand: Stand) -> None:
    response = stand.client.get("/imagine?prompt=a&stream=true&partial_images=2")
    assert parse(response.text)[0][-1][0] == "done"
    assert stand.painter.requests[0].previews == 2


def test_unwatched_requests_stay_unwatched(stand: Stand) -> None:
    stand.painter.happens = (RuntimeError("nobody looks at this"),)
    assert post(stand, stream=False).status_code == 200


@pytest.mark.parametrize(("code", "status", "again"), DISPATCH_ERRORS)
def test_an_error_at_once_keeps_its_status(
    stand: Stand, code: Any, status: int, again: bool
) -> None:
    stand.painter.happens = (SENT,)
    stand.painter.failure = DispatchError(code, "why", retry_after_s=5 if again else None)
    response = post(stand, stream=True)
    check_error(response, status, None, "why")
    assert response.headers.get("retry-after") == ("5" if again else None)
    assert response.headers["x-should-retry"] == ("true" if status in (429, 503) else "false")


@pytest.mark.parametrize(("code", "status", "again"), DISPATCH_ERRORS)
def test_a_later_error_is_the_last_event(stand: Stand, code: Any, status: int, again: bool) -> None:
    stand.painter.happens = STORY
    stand.painter.failure = DispatchError(code, "why", param="pool")
    response = post(stand, stream=True)
    assert response.status_code == 200
    name, data = parse(response.text)[0][-1]
    assert name == "error"
    assert (data["error"]["code"], data["error"]["param"]) == (code, "pool")


@pytest.mark.parametrize("happens", [(), STORY])
def test_nothing_of_the_inside_leaks(stand: Stand, happens: Any) -> None:
    stand.painter.happens = happens
    stand.painter.failure = RuntimeError("password is hunter2")
    response = post(stand, {"X-Request-Id": "mine-3"}, stream=True)
    assert "hunter2" not in response.text
    assert "mine-3" in response.text
    assert response.status_code == (200 if happens else 500)


def test_a_picture_begun_anew_is_a_comment_and_never_a_broken_stream(stand: Stand) -> None:
    again = Sent(pool=snapshot("gpu"), attempt=2)
    stand.painter.happens = (*STORY[:3], again, *STORY[2:])
    events, comments = parse(post(stand, stream=True).text)
    assert comments == ["picture 0 is painted again, by pool gpu"]
    assert [d["step"] for name, d in events if name == "step"] == [1, 1, 4]
    assert events[-1][0] == "done"


class SlowPainter(FakePainter):
    """Never done; knows who has left."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    async def paint(self, *given: Any) -> Painted:
        self.requests.append(given[0])
        for event in self.happens:
            given[2](event)
        try:
            await asyncio.sleep(60)
        finally:
            self.left.set()
        raise AssertionError("nobody waits this long")


@pytest_asyncio.fixture
async def server(stand: Stand) -> AsyncIterator[tuple[str, SlowPainter]]:
    """The HTTP surface on a real port, over a painter that takes for ever."""
    painter = SlowPainter()
    stand.front.painter = painter
    ingress = stand.front.settings.ingress.model_copy(update={"heartbeat_s": 0.1})
    stand.front.settings = stand.front.settings.model_copy(update={"ingress": ingress})
    config = uvicorn.Config(create_app(stand.front), port=0, log_level="error", lifespan="off")
    uvicorn_server = uvicorn.Server(config)
    task = asyncio.create_task(uvicorn_server.serve())
    while not uvicorn_server.started:  # noqa: ASYNC110 - uvicorn tells nobody
        await asyncio.sleep(0.01)
    port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/imagine", painter
    uvicorn_server.should_exit = True
    await task


BODY = {"prompt": "a", "stream": True}


@pytest.mark.parametrize("happens", [(), STORY])
async def test_silence_is_filled_and_leaving_ends_the_work(
    server: tuple[str, SlowPainter], happens: Any
) -> None:
    url, painter = server
    painter.happens = happens
    seen = ""
    async with httpx.AsyncClient() as client, client.stream("POST", url, json=BODY) as response:
        async for text in response.aiter_text():
            seen += text
            if seen.count(": still there\n\n") >= 3:
                break
        assert not painter.left.is_set()
    async with asyncio.timeout(5):
        await painter.left.wait()
    assert ("event: step" in seen) == bool(happens)


async def test_leaving_before_the_first_event_ends_the_work_too(
    server: tuple[str, SlowPainter],
) -> None:
    url, painter = server
    async with httpx.AsyncClient(timeout=0.3) as client:
        with contextlib.suppress(httpx.ReadTimeout):
            await client.post(url, json=BODY)
    async with asyncio.timeout(5):
        await painter.left.wait()
