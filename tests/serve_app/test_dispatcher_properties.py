"""Whatever pools and clients do, every request has exactly one outcome and leaves nothing behind.

Random pools, policies, speeds, arrivals, crashes, recoveries and clients that leave, on a
simulated clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import ImageRequest
from serve_app.live import LiveSettings
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.dispatcher import Dispatcher
from serve_app.routing.outcome import DispatchError, Painted, ReplicaLostError
from serve_app.routing.policies import POLICIES, PolicyOptions
from serve_app.routing.router import Decision, WaitLimits, Wishes, route
from serve_app.routing.snapshot import PoolState
from serve_app.routing.speed import Speed
from serve_app.routing.work import Load, Work
from serve_app.settings import INGRESS, Settings
from tests.serve_app.test_dispatcher import RESULT, Answer, request
from tests.serve_app.virtual_time import run_virtually

WORK = Work(1, 4)
NAMES = ("a", "b", "c")
DETECTION_S = 1.0


@dataclass
class Pool:
    """Two requests at a time, each ``service_s`` long; can crash, and say so only later."""

    name: str
    world: World
    service_s: float
    alive: bool = True
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    crash: asyncio.Event = field(default_factory=asyncio.Event)
    going: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.going.set()

    def generate(self, request: ImageRequest, watch: Any = None) -> Reply:
        assert self.world.states[self.name].ready > 0, "sent to a pool without a replica"
        self.world.sent[request.request_id] += 1
        return Reply(self, request)


@dataclass
class Reply:
    pool: Pool
    request: ImageRequest
    cancelled: bool = False

    async def result(self) -> Answer:
        world = self.pool.world
        world.running.append(self)
        try:
            return await self._work()
        finally:
            world.running.remove(self)

    async def _work(self) -> Answer:
        if not self.pool.alive:
            raise ReplicaLostError("dead already")
        work = asyncio.ensure_future(self._paint())
        crash = asyncio.ensure_future(self.pool.crash.wait())
        try:
            await asyncio.wait({work, crash}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ReplicaLostError("died")
            self.pool.world.painted[self.request.request_id] += 1
            return RESULT
        finally:
            work.cancel()
            crash.cancel()

    async def _paint(self) -> None:
        async with self.pool.slots:
            await asyncio.sleep(self.pool.service_s)
            await self.pool.going.wait()

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """Pools, a dispatcher over them and what came of each request."""

    def __init__(self, plan: Any) -> None:
        loop = asyncio.get_running_loop()
        self.sent: Counter[str] = Counter()
        self.painted: Counter[str] = Counter()
        self.running: list[Reply] = []
        self.states = {name: PoolState(ready=1) for name in NAMES}
        self.pools = {
            name: Pool(name, self, speed) for name, speed in zip(NAMES, plan["speeds"], strict=True)
        }
        settings = Settings.parse(
            {"pools": {n: {"accelerator": n, "framework": "cpu"} for n in NAMES}}
        )
        self.directory = PoolDirectory(
            settings.pools, lambda: self.states, Work(1, 4), clock=loop.time
        )
        self.dispatcher = Dispatcher(
            self.pools,
            self.directory,
            reference_pixels=64 * 64,
            timeout_s=120,
            clock=loop.time,
        )
        live = {
            "policy": plan["policy"],
            "prices": {"a": 1, "b": 2, "c": 3},
            "slo_s": 20,
            "admission": {"max_wait_s": plan["max_wait_s"]},
            "recovery": {"hang_after_s": 30},
        }
        if plan["fair"]:
            live["fairness"] = {}
        self.dispatcher.configure(LiveSettings.parse(live, settings))
        for name, pool in self.pools.items():
            self.directory.measured(name, Speed({1: pool.service_s * 250}, 2))
        self.outcomes: list[str] = []
        self.slowest_s = 0.0

    async def client(
        self,
        index: int,
        at: float,
        leaves_after: float | None = None,
        wishes: Wishes = Wishes(),  # noqa: B008 - frozen
        deadline_s: float | None = None,
    ) -> None:
        await asyncio.sleep(at)
        asked = dataclasses.replace(request(), request_id=str(index), time_left_s=deadline_s)
        loop = asyncio.get_running_loop()
        began = loop.time()
        task = asyncio.ensure_future(self.dispatcher.paint(asked, wishes))
        if leaves_after is not None:
            loop.call_later(leaves_after, task.cancel)
        try:
            painted = await task
            assert isinstance(painted, Painted)
            self.outcomes.append("painted")
        except DispatchError as error:
            self.outcomes.append(error.code)
        except asyncio.CancelledError:
            self.outcomes.append("left")
        self.slowest_s = max(self.slowest_s, loop.time() - began)

    async def trouble(self, name: str, at: float, down_s: float, hangs: bool) -> None:
        """The pool's only replica dies (Serve notices later) or hangs (nobody notices)."""
        await asyncio.sleep(at)
        pool = self.pools[name]
        if not pool.alive:
            return
        if hangs:
            pool.going.clear()
            await asyncio.sleep(down_s)
            pool.going.set()
            return
        pool.alive = False
        pool.crash.set()
        await asyncio.sleep(DETECTION_S)
        self.states[name] = PoolState()
        await asyncio.sleep(down_s)
        pool.alive, pool.crash, pool.slots = True, asyncio.Event(), asyncio.Semaphore(2)
        self.states[name] = PoolState(ready=1)


PLANS = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(sorted(POLICIES)),
        "speeds": st.tuples(*[st.sampled_from([0.1, 0.5, 2.0])] * 3),
        "max_wait_s": st.sampled_from([None, 5, 60]),
        "fair": st.booleans(),
        "clients": st.lists(
            st.tuples(
                st.floats(0, 30),
                st.one_of(st.none(), st.none(), st.floats(0, 3)),
                st.builds(
                    Wishes,
                    pin=st.sampled_from([None, None, None, *NAMES]),
                    sticky=st.sampled_from([None, None, *NAMES]),
                    key=st.sampled_from(["", "k1", "k2"]),
                ),
                st.one_of(st.none(), st.none(), st.floats(0.05, 20)),
            ),
            min_size=1,
            max_size=40,
        ),
        "trouble": st.lists(
            st.tuples(st.sampled_from(NAMES), st.floats(0, 30), st.floats(0.1, 20), st.booleans()),
            max_size=5,
        ),
    }
)


async def play(plan: Any) -> World:
    world = World(plan)
    async with asyncio.TaskGroup() as group:
        for index, given in enumerate(plan["clients"]):
            group.create_task(world.client(index, *given))
        for given in plan["trouble"]:
            group.create_task(world.trouble(*given))
    await asyncio.sleep(0.1)
    return world


@settings(max_examples=150, deadline=None)
@given(PLANS)
def test_every_request_has_one_outcome_and_leaves_nothing_behind(plan: Any) -> None:
    world = run_virtually(play(plan))
    count = Counter(world.outcomes)
    assert count.total() == len(plan["clients"])
    codes = {"unavailable", "overloaded", "lost", "deadline_exceeded"}
    assert set(count) <= {"painted", "left", *codes}
    # Each picture delivered was painted once; none was painted twice for one answer.
    assert all(times == 1 for times in world.painted.values())
    assert world.painted.total() >= count["painted"]
    assert all(times <= 2 for times in world.sent.values())
    # Nothing is left: no work at the pools, no load in the books, nobody at the gate.
    assert world.running == []
    assert all(world.directory.record(name).load == Load() for name in NAMES)
    assert world.dispatcher.waiting == 0
    if all(deadline_s is None for *_, deadline_s in plan["clients"]):
        assert not count["deadline_exceeded"]
    if not plan["trouble"]:
        assert not count["lost"]
        assert not count["unavailable"]
    if plan["max_wait_s"] is None:
        assert not count["overloaded"]
    # Nobody starves: 40 requests of 2 s, two at a time on one pool left, and all troubles.
    assert world.slowest_s <= 120


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(POLICIES)), st.sampled_from(NAMES))
def test_a_pool_that_comes_back_is_used_again_within_bounds(policy: str, name: str) -> None:
    async def main() -> World:
        plan = {"policy": policy, "speeds": (0.1, 0.1, 0.1), "max_wait_s": None, "fair": False}
        world = World(plan)
        world.states.update({other: PoolState() for other in NAMES if other != name})
        world.states[name] = PoolState()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.client(0, 0.0))
        world.states[name] = PoolState(ready=1)
        async with asyncio.TaskGroup() as group:
            for index in range(1, 4):
                group.create_task(world.client(index, index / 10))
        return world

    world = run_virtually(main())
    assert world.outcomes == ["unavailable", "painted", "painted", "painted"]


def test_several_ingress_replicas_do_not_rush_to_one_pool() -> None:
    """Four of them, by predicted latency, none knowing what the others have sent."""
    peers, names = 4, [f"p{index}" for index in range(8)]
    settings = Settings.parse(
        {"pools": {name: {"accelerator": name, "framework": "cpu"} for name in names}}
    )
    states = {name: PoolState(ready=1) for name in names} | {INGRESS: PoolState(ready=peers)}
    sent: Counter[str] = Counter()
    policy = POLICIES["latency"](PolicyOptions())
    directories = [PoolDirectory(settings.pools, lambda: states, WORK) for _ in range(peers)]
    for directory in directories:
        for index, name in enumerate(names):
            directory.measured(name, Speed({1: 10.0 + index, 8: 20.0 + index}, 8))
    for turn in range(160):
        directory = directories[turn % peers]
        choice = route(
            directory.snapshots(), policy, WORK, 0.0, wishes=Wishes(), limits=WaitLimits()
        )
        assert isinstance(choice, Decision)
        directory.record(choice.pool.name).load.add(WORK)
        sent[choice.pool.name] += 1
    assert set(sent) == set(names)
    assert max(sent.values()) <= 2 * 160 / len(names)


def test_the_clock_is_virtual() -> None:
    began = time.monotonic()
    run_virtually(asyncio.sleep(3600))
    assert time.monotonic() - began < 1
