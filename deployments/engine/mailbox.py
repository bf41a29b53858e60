"""A watched request's events on their way from the engine's threads to one asyncio reader."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from deployments.messages import ImageEvent, ImageProgress

# The reader is told of steps this often at most: each event costs a hop between processes.
STEP_INTERVAL_S = 0.1


class Mailbox:
    """Keeps what the reader has not had; of progress, the newest alone.

    Must be made where the reader's event loop runs.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._lock = threading.Lock()
        self._progress: ImageProgress | None = None
        self._others: deque[ImageEvent] = deque()
        self._told = 0.0

    def put(self, event: ImageEvent) -> None:
        """Leave an event; from any thread, returns at once."""
        now = time.monotonic()
        with self._lock:
            if isinstance(event, ImageProgress):
                self._progress = event
                if now - self._told < STEP_INTERVAL_S:
                    return
            else:
                self._others.append(event)
            self._told = now
        # When the reader's loop has closed, nobody waits for this event any more.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    async def until(self, end: asyncio.Future[Any]) -> AsyncIterator[ImageEvent]:
        """Events as they come, until ``end`` is done and all are given out."""
        end.add_done_callback(lambda _: self._news.set())
        while not end.done():
            await self._news.wait()
            self._news.clear()
            for event in self._take():
                yield event
        for event in self._take():
            yield event

    def _take(self) -> list[ImageEvent]:
        with self._lock:
            taken = list(self._others)
            self._others.clear()
            if self._progress is not None:
                taken.append(self._progress)
                self._progress = None
        return taken
