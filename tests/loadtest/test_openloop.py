"""Requests leave when they are due, whatever the service does; waiting is never hidden."""

from __future__ import annotations

import asyncio
import time

import pytest

from loadtest.openloop import drive
from loadtest.outcome import INTERRUPTED, Answer, Outcome
from loadtest.service import Body


async def test_slow_answers_delay_no_request() -> None:
    """Ten requests within 0.1 s at a service that answers none of them before the last is sent."""
    under_way, most = 0, 0
    everyone_is_there = asyncio.Event()

    async def paint(body: Body) -> Answer:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 10:
            everyone_is_there.set()
        await everyone_is_there.wait()
        under_way -= 1
        return Answer("a")

    outcomes: list[Outcome] = []
    schedule = [(index / 100, {"seed": index}) for index in range(10)]
    async with asyncio.timeout(20):
        await drive(schedule, paint, outcomes.append)
    assert most == 10
    assert len(outcomes) == 10
    assert all(one.sent_s >= one.due_s for one in outcomes)
    assert all(one.ok for one in outcomes)


async def test_a_client_that_is_late_is_corrected_for() -> None:
    """The first request blocks the client's only thread; the second is due meanwhile."""

    async def paint(body: Body) -> Answer:
        if body["seed"] == 0:
            time.sleep(0.3)  # noqa: ASYNC251 - the point
        return Answer("a")

    outcomes: list[Outcome] = []
    await drive([(0.0, {"seed": 0}), (0.01, {"seed": 1})], paint, outcomes.append)
    second = max(outcomes, key=lambda one: one.due_s)
    assert second.latency_s > 0.25
    assert second.uncorrected_s < second.latency_s - 0.2
    assert second.lag_s == pytest.approx(second.latency_s - second.uncorrected_s)


async def test_stopping_gives_up_what_is_under_way_and_sends_no_more() -> None:
    stop, outcomes, asked = asyncio.Event(), list[Outcome](), list[int]()

    async def paint(body: Body) -> Answer:
        asked.append(body["seed"])
        if body["seed"] == 0:
            return Answer("a")
        stop.set()
        await asyncio.Event().wait()
        raise AssertionError("never answered")

    schedule = [(0.0, {"seed": 0}), (0.05, {"seed": 1}), (3600.0, {"seed": 2})]
    async with asyncio.timeout(20):
        await drive(schedule, paint, outcomes.append, stop=stop)
    assert asked == [0, 1]
    assert [one.answer for one in sorted(outcomes, key=lambda one: one.due_s)] == [
        Answer("a"),
        Answer(error=INTERRUPTED),
    ]


async def test_a_defect_of_ours_is_no_failed_request() -> None:
    async def paint(body: Body) -> Answer:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await drive([(0.0, {}), (3600.0, {})], paint, lambda outcome: None)


async def test_being_cancelled_takes_the_requests_along() -> None:
    began = asyncio.Event()
    cancelled: list[bool] = []

    async def paint(body: Body) -> Answer:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError("never answered")

    task = asyncio.create_task(drive([(0.0, {})], paint, lambda outcome: None))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [True]
