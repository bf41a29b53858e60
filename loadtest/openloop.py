"""Open-loop load: each request is sent when it is due, whatever became of those before.

Locust was considered: its users wait for their answers (a closed loop), so that open loop would
take a user per request in flight; asyncio and httpx do it in a page.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from loadtest.outcome import INTERRUPTED, Answer, Outcome
from loadtest.service import Body

Paint = Callable[[Body], Awaitable[Answer]]


async def drive(
    schedule: Iterable[tuple[float, Body]],
    paint: Paint,
    told: Callable[[Outcome], None],
    *,
    sending: Callable[[], None] = lambda: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Send every request of ``schedule`` at its time; returns when all have their outcome.

    Args:
        schedule: ascending seconds from now, and what to ask for.
        paint: sends one request; failures are answers too.
        told: gets each outcome as it comes.
        sending: called for each request sent.
        stop: once set, nothing more is sent and what is under way is given up as interrupted.
    """
    stop = stop or asyncio.Event()
    began = time.monotonic()

    async def one(due_s: float, body: Body) -> None:
        sent_s = time.monotonic() - began
        try:
            answer = await paint(body)
        except asyncio.CancelledError:
            if not stop.is_set():
                raise
            answer = Answer(error=INTERRUPTED)
        told(Outcome(due_s, sent_s, time.monotonic() - began, answer))

    stopped = asyncio.create_task(stop.wait())
    tasks: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []

    def finished(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            failed.append(error)
            stop.set()

    try:
        for due_s, body in schedule:
            wait_s = began + due_s - time.monotonic()
            if wait_s > 0:
                await asyncio.wait((stopped,), timeout=wait_s)
            if stop.is_set():
                break
            task = asyncio.create_task(one(due_s, body))
            tasks.add(task)
            task.add_done_callback(finished)
            sending()
        if tasks and not stop.is_set():
            every = asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.wait((stopped, every), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if tasks:
            # One turn, so that each has begun and tells its own end.
            await asyncio.sleep(0)
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stopped.cancel()
    if failed:
        raise failed[0]
