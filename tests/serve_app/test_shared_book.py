"""A retry that reaches another ingress replica is not painted twice either."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.errors import ApiError
from serve_app.api.openai import shared_book as module
from serve_app.api.openai.ledger import KEPT_S, SILENT_S, Answer, Found, Ledger
from serve_app.api.openai.once import Once
from serve_app.api.openai.ray_desk import LedgerActor, RayDesk
from serve_app.api.openai.shared_book import ASK_S, Begun, Ended, SharedBook, Word
from serve_app.api.openai.ticket import Ticket
from serve_app.routing.outcome import DispatchError, Painted
from tests.serve_app.conftest import snapshot
from tests.serve_app.test_dispatcher import RESULT
from tests.serve_app.virtual_time import run_virtually

LATENCY_S = 0.003


@dataclass
class Wire:
    """One ingress replica's wire to the shared ledger, with what goes wrong on it."""

    ledger: Ledger
    state: Literal["whole", "cut", "stuck"] = "whole"

    async def _pass(self) -> None:
        await asyncio.sleep(LATENCY_S)
        if self.state == "cut":
            raise ConnectionError("the ledger is gone")
        if self.state == "stuck":
            await asyncio.Event().wait()

    async def claim(self, painter: str, call: str, ticket: Ticket, seed: int) -> Found | None:
        await self._pass()
        found = self.ledger.claim(painter, call, ticket, seed)
        await self._pass()
        return found

    async def answer(self, painter: str, call: str) -> Answer:
        await self._pass()
        answer = await self.ledger.answer(painter, call)
        await self._pass()
        return answer

    async def tell(self, painter: str, under_way: frozenset[str], words: Sequence[Word]) -> None:
        await self._pass()
        for word in words:
            word.enter(self.ledger, painter)
        self.ledger.reconcile(painter, under_way)
        await self._pass()


@dataclass
class Replica:
    """One ingress replica."""

    name: str
    wire: Wire
    once: Once
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def kill(self) -> None:
        """Nothing more comes from it."""
        self.wire.state = "stuck"
        for task in self.tasks:
            task.cancel()


class World:
    """Ingress replicas that share a ledger; a painting takes two seconds."""

    def __init__(self, count: int = 2) -> None:
        clock = asyncio.get_running_loop().time
        self.ledger = Ledger(clock=clock, silent_s=SILENT_S)
        self.replicas = [self.replica(f"ingress {index}") for index in range(count)]
        self.under_way: Counter[str] = Counter()
        self.most_under_way: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.failing: set[str] = set()

    def replica(self, name: str) -> Replica:
        """A new one."""
        wire = Wire(self.ledger)
        return Replica(name, wire, Once(SharedBook(wire, name)))

    def ask(
        self, at: int, ticket: Ticket, seed: int, client: str = "", took_s: float = 2.0
    ) -> asyncio.Task[list[Painted]]:
        """``client``'s call reaches a replica."""
        client = client or ticket.digest

        async def paint(seed: int) -> list[Painted]:
            self.under_way[client] += 1
            self.most_under_way[client] = max(self.most_under_way[client], self.under_way[client])
            try:
                await asyncio.sleep(took_s)
            finally:
                self.under_way[client] -= 1
            if client in self.failing:
                raise DispatchError("overloaded", "full")
            self.finished[client] += 1
            image = f"{ticket.caller} {ticket.digest} {client} {self.finished[client]}"
            result = replace(RESULT, seed=seed, image=image.encode())
            return [Painted(result=result, pool=snapshot("cpu"))]

        replica = self.replicas[at]
        task = asyncio.create_task(replica.once.paint(ticket, seed, paint))
        replica.tasks.add(task)
        return task


def ticket(number: int | None = 0, digest: str = "a", caller: str = "caller") -> Ticket:
    return Ticket(caller, "asked" if number is not None else "key k", digest, number)


def virtually(test: Coroutine[Any, Any, None]) -> None:
    """Run it on a clock that jumps; what does not end in an hour of that fails."""
    run_virtually(asyncio.wait_for(test, 3600))


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_another_replica_has_the_picture() -> None:
    async def run() -> None:
        world = World(3)
        first = await world.ask(0, ticket(0), 1)
        await asyncio.sleep(1)
        for number in range(1, 7):
            assert await world.ask(number % 3, ticket(number), 100 + number) == first
        assert world.finished == {"a": 1}
        # The next call of the same contents is another.
        assert await world.ask(1, ticket(0), 9) != first

    virtually(run())


@pytest.mark.parametrize("number", [0, None], ids=["numbered", "named"])
def test_another_replica_is_waited_for(number: int | None) -> None:
    async def run() -> None:
        world = World(3)
        tasks = [world.ask(0, ticket(number), 1, took_s=60)]
        for index in range(1, 6):
            await asyncio.sleep(1)
            tasks.append(
                world.ask(index % 3, ticket(None if number is None else index), 50 + index)
            )
        pictures = await asyncio.gather(*tasks)
        assert all(one == pictures[0] for one in pictures)
        assert (world.finished["a"], world.most_under_way["a"]) == (1, 1)
        assert asyncio.get_running_loop().time() < 60.1

    virtually(run())


def test_of_two_named_alike_at_the_same_moment_one_is_painted() -> None:
    async def run() -> None:
        world = World()
        one, other = await asyncio.gather(*(world.ask(at, ticket(None), at) for at in (0, 1)))
        assert one == other
        assert world.finished == {"a": 1}
        with pytest.raises(ApiError, match="other contents"):
            await world.ask(1, replace(ticket(None), digest="b"), 1)

    virtually(run())


def test_a_first_attempt_does_not_wait_for_the_ledger() -> None:
    async def run() -> None:
        world = World()
        for state in ("whole", "cut", "stuck"):
            world.replicas[0].wire.state = state
            began = asyncio.get_running_loop().time()
            await world.ask(0, ticket(0), 1)
            assert asyncio.get_running_loop().time() - began == pytest.approx(2.0)

    virtually(run())


def test_what_a_dead_replica_painted_is_painted_by_the_first_that_asks() -> None:
    async def run() -> None:
        world = World(4)
        world.ask(0, ticket(0), 7, took_s=60)
        await asyncio.sleep(1)
        waiters = [world.ask(at, ticket(at), 50 + at) for at in (1, 2)]
        await asyncio.sleep(1)
        world.replicas[0].kill()
        died = asyncio.get_running_loop().time()
        one, other = await asyncio.gather(*waiters)
        assert one == other
        assert one[0].result.seed == 7  # as was said when it was joined
        assert asyncio.get_running_loop().time() - died < SILENT_S + 5
        assert await world.ask(3, ticket(3), 53) == one
        assert world.finished == {"a": 1}

    virtually(run())


def test_what_fails_elsewhere_is_painted_by_who_waits() -> None:
    async def run() -> None:
        world = World(3)
        world.failing.add("a")
        first = world.ask(0, ticket(0), 7)
        await asyncio.sleep(1)
        second = world.ask(1, ticket(1), 8)
        with pytest.raises(DispatchError):
            await first
        world.failing.clear()
        picture = await second
        await asyncio.sleep(1)
        assert await world.ask(2, ticket(2), 9) == picture
        assert world.finished == {"a": 1}
        assert not world.ledger._failed

    virtually(run())


@pytest.mark.parametrize("how", ["fails", "leaves", "refused"])
def test_a_retry_after_a_failure_is_not_given_what_another_client_got_elsewhere(how: str) -> None:
    async def run() -> None:
        world = World(3)
        others = await world.ask(1, ticket(0), 1, client="other")
        if how == "refused":
            world.replicas[0].once.book.fail_early("caller", 1)
        else:
            world.failing.add("own")
            task = world.ask(0, ticket(0), 2, client="own")
            await asyncio.sleep(1)
            if how == "leaves":
                await leave(task)
            await asyncio.gather(task, return_exceptions=True)
            world.failing.clear()
        await asyncio.sleep(1)
        own = await world.ask(1, ticket(1), 3, client="own")
        assert own != others
        await asyncio.sleep(1)
        assert await world.ask(2, ticket(2), 4, client="own") == own
        assert await world.ask(0, ticket(1), 5, client="other") == others

    virtually(run())


@pytest.mark.parametrize("state", ["cut", "stuck"])
def test_without_the_ledger_everything_is_painted(
    state: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger=module.__name__)

    async def run() -> None:
        world = World()
        for replica in world.replicas:
            replica.wire.state = state
        began = asyncio.get_running_loop().time()
        for number in range(4):
            await world.ask(number % 2, ticket(number), number)
            await asyncio.sleep(5)
        spent = asyncio.get_running_loop().time() - began
        assert spent <= 4 * (2 + 5) + 3 * ASK_S + 0.1
        assert world.finished == {"a": 4}
        assert len(caplog.messages) == 2  # once per replica
        # What could not be said is said when it is back.
        for replica in world.replicas:
            replica.wire.state = "whole"
        await asyncio.sleep(10)
        await world.ask(0, ticket(1), 1)
        assert world.finished == {"a": 4}

    virtually(run())


def test_a_waiting_retry_outlives_the_ledger() -> None:
    async def run() -> None:
        world = World()
        first = world.ask(0, ticket(0), 1, took_s=30)
        await asyncio.sleep(1)
        second = world.ask(1, ticket(1), 2)
        await asyncio.sleep(1)
        world.replicas[1].wire.state = "stuck"
        await second
        assert not first.done()
        await first

    virtually(run())


def test_of_what_was_lost_on_the_way_nobody_waits_for_ever() -> None:
    """A client that leaves while it is asked for: the ledger takes it to be painted."""

    async def run() -> None:
        world = World()
        world.ask(0, ticket(0, "other"), 1, took_s=60)  # so that its replica is heard of
        await asyncio.sleep(1)
        leaver = world.ask(0, ticket(None), 1)
        await asyncio.sleep(LATENCY_S * 1.5)  # asked, not yet answered
        await leave(leaver)
        world.replicas[0].once.book._words.clear()  # type: ignore[attr-defined]
        assert await world.ask(1, ticket(None), 2)
        assert asyncio.get_running_loop().time() < SILENT_S + 5

    virtually(run())


def test_words_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CALLS", 10)
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    begun = [Begun(str(index), ticket(), 1) for index in range(20)]
    assert module._within_bounds(begun) == begun[-10:]
    painted = [Painted(result=RESULT, pool=snapshot("cpu"))]  # 3 bytes
    ended = [Ended(str(index), painted) for index in range(8)]
    assert module._within_bounds(ended) == ended[-3:]


def test_the_ledger_forgets_replicas_and_their_calls() -> None:
    async def run() -> None:
        world = World()
        for index in range(5):
            world.ask(0, ticket(0, str(index)), 1, took_s=math.inf if index else 2.0)
        await asyncio.sleep(10)
        world.replicas[0].kill()
        await asyncio.sleep(2 * KEPT_S)
        await world.ask(1, ticket(0, "new"), 1)
        await asyncio.sleep(1)
        assert len(world.ledger._open) == 0
        assert len(world.ledger._done) == 1
        assert len(world.ledger._alike) == 1
        assert set(world.ledger._heard) == {"ingress 1"}

    virtually(run())


# One client's attempt: seconds until it is sent, where to, and what becomes of it.
ATTEMPT = st.tuples(
    st.sampled_from([0.5, 1.0, 3.0, 8.0]),
    st.integers(0, 2),
    st.sampled_from(["lost", "lost", "left", "failed"]),
)
CLIENT = st.tuples(
    st.sampled_from(["one", "two"]), st.booleans(), st.lists(ATTEMPT, min_size=1, max_size=5)
)


@given(clients=st.lists(CLIENT, min_size=1, max_size=5), killed_s=st.floats(0.1, 30) | st.none())
@settings(max_examples=150, deadline=None)
def test_whatever_happens_each_gets_its_own_and_once(
    clients: list[tuple[str, bool, list[tuple[float, int, str]]]], killed_s: float | None
) -> None:
    """Clients ask for unlike things, by key or not; replica 2 may die."""

    async def client(world: World, name: str, caller: str, named: bool, attempts: Any) -> None:
        got = 0
        for number, (pause_s, at, becomes) in enumerate(attempts):
            await asyncio.sleep(pause_s)
            dead = killed_s is not None and asyncio.get_running_loop().time() >= killed_s
            at = 0 if dead and at == 2 else at
            (world.failing.add if becomes == "failed" else world.failing.discard)(name)
            one = Ticket(
                caller, f"key {name}" if named else "asked", name, None if named else number
            )
            task = world.ask(at, one, number)
            if becomes == "left":
                await asyncio.sleep(0.7)
                await leave(task)
            (answer,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(answer, list):
                words = answer[0].result.image.decode().split()
                assert words[:3] == [caller, name, name]
                got += 1
            else:
                assert isinstance(answer, DispatchError | asyncio.CancelledError), answer
        # A failure or a death may have another painted; a lost answer may not.
        died = killed_s is not None and any(at == 2 for _, at, _ in attempts)
        if all(becomes == "lost" for _, _, becomes in attempts):
            assert world.finished[name] <= 1 + died
            if not died:
                assert (world.finished[name], got) == (1, len(attempts))
        if not died:
            assert world.most_under_way[name] <= 1

    async def kill(world: World) -> None:
        if killed_s is not None:
            await asyncio.sleep(killed_s)
            world.replicas[2].kill()

    async def run() -> None:
        world = World(3)
        await asyncio.gather(
            kill(world),
            *(client(world, f"c{index}", *one) for index, one in enumerate(clients)),
        )
        await asyncio.sleep(20)
        for replica in world.replicas:
            assert not replica.once._paintings
        assert not any(world.under_way.values())

    virtually(run())


class Method:
    """A method of an actor."""

    def __init__(self, bound: Any) -> None:
        self.remote = bound


class Handle:
    """An actor's handle; the actor may be dead."""

    def __init__(self) -> None:
        self.actor, self.dead = LedgerActor(), False

    def __getattr__(self, name: str) -> Method:
        async def call(*args: Any) -> Any:
            from ray.exceptions import ActorDiedError

            if self.dead:
                raise ActorDiedError()
            return await getattr(self.actor, name)(*args)

        return Method(call)


async def test_an_actor_that_died_is_started_again() -> None:
    started: list[Handle] = []

    def start() -> Handle:
        if len(started) == 2:
            started.append(Handle())
            raise RuntimeError("no cluster")
        started.append(Handle())
        return started[-1]

    desk = RayDesk(start)
    assert await desk.claim("one", "call", ticket(None), 1) is None
    assert await desk.claim("two", "another", ticket(None), 2) == Found("call", 1, "a")
    painted = [Painted(result=RESULT, pool=snapshot("cpu"))]
    await desk.tell("one", frozenset(), [Ended("call", painted)])
    assert await desk.answer("two", "call") == painted
    assert len(started) == 1
    started[0].dead = True
    assert await desk.answer("two", "call") == "yours"
    started[1].dead = True
    with pytest.raises(RuntimeError, match="no cluster"):
        await desk.answer("two", "call")
    assert await desk.answer("two", "call") == "yours"
    for handle in started:
        if handle.actor._ending is not None:
            await leave(handle.actor._ending)
