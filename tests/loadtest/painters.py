"""Simulated pools as subjects of trials, and a service's answers without a service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simpy import Environment

from loadtest.outcome import Answer, Outcome
from loadtest.simulator.replica import Replica
from loadtest.simulator.request import Request
from serve_app.routing.speed import Speed
from serve_app.routing.work import Work


class SimulatedPool:
    """The simulator's replica as a ``Subject``; ``refusing``: every so manieth request fails."""

    def __init__(
        self, speed: Speed, work: Work, *, scale: float = 1.0, refusing: int | None = None
    ) -> None:
        self._speed, self._work, self._scale = speed, work, scale
        self._refusing = refusing
        self._clock = 0.0
        self._sent = 0
        self.trials: list[int] = []

    def now(self) -> float:
        return self._clock

    async def send(self, due_s: Sequence[float]) -> list[Outcome]:
        env, done = Environment(), {}

        class Home:
            queued = 0.0

            def answered(self, request: Request, now: float) -> None:
                done[id(request)] = now

            def drained(self, replica: Replica, now: float) -> None:
                raise AssertionError("nobody drains it")

        def step_s(rows: float) -> float:
            return self._speed.step_ms(rows) / 1000 * self._scale

        joined: dict[int, float] = {}

        class Watched(Replica):
            def _admit(self, request: Request) -> None:
                joined[id(request)] = env.now
                super()._admit(request)

        replica = Watched(env, Home(), step_s, self._speed.max_rows)
        requests = [Request(self._work, at) for at in due_s]
        refused = set()
        for request in requests:
            self._sent += 1
            if self._refusing and self._sent % self._refusing == 0:
                refused.add(id(request))
                continue
            event = env.timeout(request.arrived_s)
            event.callbacks.append(lambda _, r=request: replica.take(r, env.now))
        env.run()
        self.trials.append(len(requests))
        self._clock += max([env.now, *due_s])
        return [
            Outcome(at, at, at, Answer(error="429 overloaded"))
            if (one := id(request)) in refused
            else Outcome(at, at, done[one], Answer("a", "", done[one] - joined[one]))
            for request, at in zip(requests, due_s, strict=True)
        ]


def one_at_a_time(seconds: float) -> SimulatedPool:
    """M/D/1 under Poisson load."""
    return SimulatedPool(Speed({2: seconds * 100}, 2), Work(2, 10))


def shown(name: str, **changes: Any) -> dict[str, Any]:
    """An entry of ``/pools``."""
    return {
        "name": name,
        "accelerator": "card",
        "framework": "cuda",
        "emulated": False,
        "weight": 1.0,
        "price_per_hour": 1.0,
        "max_replicas": 1,
        "ready_replicas": 1,
        "available": True,
        "profile": None,
        "measured": {"max_rows": 2, "step_cost_ms": {"1": 60.0, "2": 100.0}},
        **changes,
    }
