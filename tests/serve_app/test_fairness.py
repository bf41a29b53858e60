"""Fair sharing between clients: exact shares, nobody starves, nobody is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.routing.fairness import FairGate, FairQueue, may_enter
from serve_app.routing.work import Work

ONE = Work(1, 1)


def fill(queue: FairQueue, entries: list[tuple[str, float, Work]]) -> dict[Any, str]:
    keys: dict[Any, str] = {}
    loop = asyncio.new_event_loop()
    for key, weight, work in entries:
        turn: asyncio.Future[None] = loop.create_future()
        keys[turn] = key
        queue.push(key, weight, work, turn)
    loop.close()
    return keys


@pytest.mark.parametrize(
    ("rows", "inside", "room", "ahead", "enters"),
    [
        (2, 4, 6, False, True),
        (2, 5, 6, False, False),
        (9, 0, 6, False, True),  # else it would wait for ever
        (9, 0, 6, True, False),
        (1, 0, 6, True, False),  # nobody is overtaken
    ],
)
def test_may_enter(rows: float, inside: float, room: float, ahead: bool, enters: bool) -> None:
    assert may_enter(rows, inside, room, ahead=ahead) is enters


def test_shares_follow_the_weights() -> None:
    queue = FairQueue()
    keys = fill(queue, [("a", 3, ONE)] * 100 + [("b", 1, ONE)] * 100)
    served = [keys[queue.pop()] for _ in range(40)]
    assert Counter(served) == {"a": 30, "b": 10}


def test_work_counts_not_requests() -> None:
    queue = FairQueue()
    keys = fill(queue, [("a", 1, Work(2, 50))] * 50 + [("b", 1, Work(1, 10))] * 50)
    served = Counter(keys[queue.pop()] for _ in range(44))
    assert served == {"a": 4, "b": 40}


def test_a_newcomer_overtakes_a_flood() -> None:
    queue = FairQueue()
    keys = fill(queue, [("flood", 1, ONE)] * 100)
    for _ in range(10):
        queue.pop()
    keys |= fill(queue, [("new", 1, ONE)])
    assert "new" in [keys[queue.pop()] for _ in range(2)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(1, 50)), max_size=60),
    st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_everyone_is_served_once_in_the_order_of_their_own_requests(
    jobs: list[tuple[str, int, int]], pops: list[bool]
) -> None:
    queue, sent, served = FairQueue(), [], []
    loop = asyncio.new_event_loop()
    turns: dict[Any, tuple[str, int]] = {}
    for index, ((key, rows, steps), pop) in enumerate(zip(jobs, pops, strict=False)):
        turn: asyncio.Future[None] = loop.create_future()
        turns[turn] = (key, index)
        queue.push(key, {"a": 1, "b": 2, "c": 5}[key], Work(rows, steps), turn)
        sent.append((key, index))
        if pop:
            served.append(turns[queue.pop()])
    while queue:
        served.append(turns[queue.pop()])
    loop.close()
    assert sorted(served) == sorted(sent)
    for key in "abc":
        own = [index for name, index in served if name == key]
        assert own == sorted(own)
    assert (queue._finish, queue._queued, queue.ahead("a", lambda _: 1.0)) == ({}, {}, 0.0)


def test_what_is_ahead_of_a_key() -> None:
    queue = FairQueue()
    fill(queue, [("flood", 1, Work(1, 10))] * 10 + [("some", 1, Work(1, 10))])
    weight = {"flood": 1.0, "some": 1.0, "new": 1.0}.__getitem__
    assert queue.ahead("new", weight) == 0
    assert queue.ahead("some", weight) == 20
    assert queue.ahead("flood", weight) == 110


def test_nobody_is_charged_for_what_was_dropped() -> None:
    queue, loop = FairQueue(), asyncio.new_event_loop()
    keys = fill(queue, [("other", 1, ONE)] * 30)
    dropped = [loop.create_future() for _ in range(100)]
    for turn in dropped:
        queue.push("fickle", 1, ONE, turn)
    for turn in dropped:
        queue.discard(turn)
    loop.close()
    keys |= fill(queue, [("fickle", 1, ONE)])
    assert "fickle" in [keys[queue.pop()] for _ in range(2)]


def test_keys_that_nothing_is_owed_to_are_forgotten() -> None:
    queue = FairQueue()
    fill(queue, [("long", 1, Work(1, 10**6))] * 2)
    for index in range(3000):
        fill(queue, [(f"key{index}", 1, ONE)])
        queue.pop()
    assert len(queue._finish) < 1100


class Gate:
    """A gate with room for ``rows`` and callers that stay until told to leave."""

    def __init__(self, rows: float, weights: dict[str, float] | None) -> None:
        self.rows = rows
        self.gate = FairGate(lambda: self.rows)
        self.gate.configure(weights)
        self.inside: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def enter(self, name: str, key: str, work: Work = ONE) -> None:
        self.leave[name] = asyncio.Event()

        async def stay() -> None:
            async with self.gate.turn(key, work):
                self.inside.append(name)
                await self.leave[name].wait()

        self.tasks[name] = asyncio.create_task(stay())
        await asyncio.sleep(0)

    async def let_go(self, name: str) -> None:
        self.leave[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)


async def test_off_it_holds_nobody_up() -> None:
    stand = Gate(1, None)
    for index in range(5):
        await stand.enter(f"r{index}", "a")
    assert len(stand.inside) == 5
    for name in list(stand.tasks):
        await stand.let_go(name)


async def test_on_it_lets_in_what_there_is_room_for_and_then_in_fair_turns() -> None:
    stand = Gate(2, {})
    for index in range(4):
        await stand.enter(f"a{index}", "a")
    await stand.enter("b0", "b")
    assert stand.inside == ["a0", "a1"]
    assert stand.gate.waiting == 3
    await stand.let_go("a0")
    await stand.let_go("a1")
    assert stand.inside == ["a0", "a1", "a2", "b0"]
    stand.gate.configure(None)  # switched off: all come in
    await asyncio.sleep(0)
    assert stand.inside[-1] == "a3"
    for name in ("a2", "a3", "b0"):
        await stand.let_go(name)
    assert stand.gate._inside == 0


async def test_what_is_larger_than_all_room_goes_alone() -> None:
    stand = Gate(2, {})
    await stand.enter("small", "a")
    await stand.enter("huge", "a", Work(8, 1))
    assert stand.inside == ["small"]
    await stand.let_go("small")
    assert stand.inside == ["small", "huge"]
    await stand.let_go("huge")


async def test_a_caller_who_leaves_gives_up_its_place() -> None:
    stand = Gate(1, {})
    await stand.enter("first", "a")
    await stand.enter("gone", "a")
    await stand.enter("next", "b")
    stand.tasks["gone"].cancel()
    with pytest.raises(asyncio.CancelledError):
        await stand.tasks["gone"]
    await stand.let_go("first")
    assert stand.inside == ["first", "next"]
    await stand.let_go("next")
    assert (stand.gate._inside, stand.gate.waiting) == (0, 0)


async def test_a_caller_who_leaves_as_its_turn_comes_gives_it_to_the_next() -> None:
    stand = Gate(1, {})
    first = stand.gate.turn("a", ONE)
    await first.__aenter__()
    await stand.enter("gone", "a")
    await stand.enter("next", "b")
    await first.__aexit__(None, None, None)  # lets "gone" in, which has yet to run
    stand.tasks["gone"].cancel()
    with pytest.raises(asyncio.CancelledError):
        await stand.tasks["gone"]
    await asyncio.sleep(0)
    assert stand.inside == ["next"]
    await stand.let_go("next")
    assert (stand.gate._inside, stand.gate.waiting) == (0, 0)
