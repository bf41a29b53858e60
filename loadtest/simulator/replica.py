"""One replica: a batch whose requests share the steps, and a queue before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from heapq import heappop, heappush
from typing import Protocol

from simpy import Environment
from simpy.events import Event, Timeout

from loadtest.simulator.request import Request

# Requests that finish within so many steps of each other finish together: rounding only.
_TOGETHER = 1e-6


class Phase(Enum):
    """Where a replica is in its life; the last one is left at once when it is killed."""

    PROVISIONING = "provisioning"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Home(Protocol):
    """What a replica tells its pool.

    Attributes:
        queued: row-steps that wait for a place in a batch.
    """

    queued: float

    def answered(self, request: Request, now: float) -> None:
        """``request`` is done."""
        ...

    def drained(self, replica: Replica, now: float) -> None:
        """``replica`` was draining and has nothing left to do."""
        ...


class Replica:
    """Processor sharing by a step clock, which ticks once per step whatever the step costs.

    A request of ``steps`` steps that joins when the clock shows ``v`` is done at ``v + steps``; the
    clock's rate is ``1 / step_s(rows in the batch)``. Real batches admit at whole steps only, which
    adds half a step on average and is left out.

    Attributes:
        phase: where it is in its life.
        ongoing: requests in the batch and in the queue.
        slot: its place in the pool's list of ready replicas, kept by the pool.
    """

    __slots__ = (
        "_batch",
        "_clock",
        "_env",
        "_home",
        "_max_rows",
        "_queue",
        "_rows",
        "_seen_s",
        "_sequence",
        "_step_s",
        "_step_s_now",
        "_version",
        "ongoing",
        "phase",
        "slot",
    )

    def __init__(
        self, env: Environment, home: Home, step_s: Callable[[float], float], max_rows: float
    ) -> None:
        self._env = env
        self._home = home
        self._step_s = step_s
        self._max_rows = max_rows
        self._batch: list[tuple[float, int, Request]] = []
        self._queue: deque[Request] = deque()
        self._clock = 0.0
        self._seen_s = 0.0
        self._rows = 0.0
        self._step_s_now = 1.0
        self._sequence = 0
        # Completions planned before the batch last changed are void.
        self._version = 0
        self.ongoing = 0
        self.phase = Phase.PROVISIONING
        self.slot = -1

    def take(self, request: Request, now: float) -> None:
        """Admit ``request`` to the batch, or queue it."""
        self.ongoing += 1
        work = request.work
        if self._batch and (self._queue or self._rows + work.rows > self._max_rows):
            self._queue.append(request)
            self._home.queued += work.row_steps
            return
        if self._batch:
            self._clock += (now - self._seen_s) / self._step_s_now
        else:
            self._clock = 0.0
        self._seen_s = now
        self._admit(request)
        self._plan(now)

    def kill(self) -> list[Request]:
        """Stop at once; gives back what was not finished, in the order of arrival here."""
        lost = [entry[2] for entry in sorted(self._batch, key=lambda entry: entry[1])]
        lost.extend(self._queue)
        self._home.queued -= sum(request.work.row_steps for request in self._queue)
        self._batch.clear()
        self._queue.clear()
        self._version += 1
        self.ongoing = 0
        self.phase = Phase.STOPPED
        return lost

    def _admit(self, request: Request) -> None:
        self._sequence += 1
        heappush(self._batch, (self._clock + request.work.steps, self._sequence, request))
        self._rows += request.work.rows

    def _plan(self, now: float) -> None:
        self._version += 1
        self._step_s_now = step_s = self._step_s(self._rows)
        delay = (self._batch[0][0] - self._clock) * step_s
        event = Timeout(self._env, delay if delay > 0.0 else 0.0, self._version)
        event.callbacks.append(self._finish)

    def _finish(self, event: Event) -> None:
        if event.value != self._version:
            return
        now = self._env.now
        batch, queue, home = self._batch, self._queue, self._home
        self._clock = clock = batch[0][0]
        self._seen_s = now
        done = []
        while batch and batch[0][0] <= clock + _TOGETHER:
            request = heappop(batch)[2]
            self._rows -= request.work.rows
            done.append(request)
        if not batch:
            self._rows = self._clock = 0.0
        while queue and (not batch or self._rows + queue[0].work.rows <= self._max_rows):
            request = queue.popleft()
            home.queued -= request.work.row_steps
            self._admit(request)
        self.ongoing -= len(done)
        if batch:
            self._plan(now)
        for request in done:
            home.answered(request, now)
        if self.ongoing == 0 and self.phase is Phase.DRAINING:
            home.drained(self, now)
