"""The page in a real browser, over a real HTTP server whose painter does as it is told."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser
from starlette.types import ASGIApp

from deployments.messages import ImagePreview, ImageProgress, ImageRequest
from serve_app.api.application import create_app
from serve_app.routing.outcome import Painted
from serve_app.routing.router import Wishes
from serve_app.routing.watching import Sent, Watch
from tests.serve_app.conftest import FakePainter, Stand, snapshot
from tests.serve_app.playground.browser import Tab, chromium, require_chromium, tab

STEPS = 4


def preview(step: int, colour: str, size: tuple[int, int] = (64, 64)) -> ImagePreview:
    """A plain picture, taken after ``step``."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return ImagePreview(
        index=step, step=step, steps=STEPS, image=out.getvalue(), media_type="image/png"
    )


class Gate:
    """Where the painter waits until the test lets it go on."""


GATE = Gate()
QUEUED = (Sent(pool=snapshot("cpu"), attempt=1), ImageProgress(step=0, steps=STEPS, place=2))
# As a replica tells it, with a stop where the test looks.
STORY = (
    *QUEUED,
    GATE,
    ImageProgress(step=2, steps=STEPS),
    preview(2, "teal"),
    GATE,
    ImageProgress(step=STEPS, steps=STEPS),
)


# The same without stops.
QUICK = (*QUEUED, preview(2, "teal"))
# The browser's own word on any status from 400 on; belongs to tests of errors.
REFUSED = ("error: Failed to load resource",)


class GatedPainter(FakePainter):
    """Does what ``happens`` says, and waits at each gate."""

    def __init__(self) -> None:
        super().__init__()
        self._gates = threading.Semaphore(0)
        self.left = threading.Event()

    def go_on(self) -> None:
        """Open one gate for one request."""
        self._gates.release()

    async def paint(
        self, request: ImageRequest, wishes: Wishes, watch: Watch | None = None
    ) -> Painted:
        try:
            for event in self.happens if watch is not None else ():
                if isinstance(event, Gate):
                    while not self._gates.acquire(blocking=False):  # noqa: ASYNC110 - a thread's
                        await asyncio.sleep(0.01)
                elif watch is not None:
                    watch(event)
        except asyncio.CancelledError:
            self.left.set()
            raise
        return await super().paint(request, wishes)


@dataclass
class House:
    """The server under the page."""

    url: str
    stand: Stand
    painter: GatedPainter


@contextmanager
def serving(stand: Stand, app: ASGIApp) -> Iterator[House]:
    """``app`` over a new painter on a port of this machine, in a thread of its own."""
    painter = GatedPainter()
    painter.happens = STORY
    stand.front.painter = painter
    config = uvicorn.Config(
        app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < end, "the server does not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield House(f"http://127.0.0.1:{port}/", stand, painter)
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def house(stand: Stand) -> Iterator[House]:
    """The whole HTTP surface."""
    with serving(stand, create_app(stand.front)) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this folder, none of which is a coroutine."""
    with chromium(require_chromium()) as opened:
        yield opened


OpenPage = Callable[..., AbstractContextManager[Tab]]


@pytest.fixture
def opened(browser: Browser, house: House) -> OpenPage:
    """Opens the page in a fresh profile; see ``tab``."""

    def opening(expected: Sequence[str] = (), **context: Any) -> AbstractContextManager[Tab]:
        return tab(browser, house.url, expected=tuple(expected), **context)

    return opening
