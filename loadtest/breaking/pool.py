"""A pool of a running service as the subject of trials: every request pinned to it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from loadtest.bodies import bodies
from loadtest.openloop import drive
from loadtest.outcome import Outcome
from loadtest.service import LoadedService


class PinnedPool:
    """Sends default requests to one pool.

    Args:
        service: the service.
        name: the pool's name.
        seed: of the first picture; every later one has the next.

    Attributes:
        lags_s: by how much each was late, in seconds.
    """

    def __init__(self, service: LoadedService, name: str, seed: int) -> None:
        self._service = service
        self._bodies = bodies(pool=name, seed=seed)
        self.lags_s: list[float] = []

    def now(self) -> float:
        """See ``Subject.now``."""
        return time.monotonic()

    async def send(self, due_s: Sequence[float]) -> list[Outcome]:
        """See ``Subject.send``: the pool is idle again when all have their answers."""
        outcomes: list[Outcome] = []
        taken = islice(self._bodies, len(due_s))
        await drive(zip(due_s, taken, strict=True), self._service.paint, outcomes.append)
        self.lags_s.extend(one.lag_s for one in outcomes)
        return outcomes


def places(shown: Mapping[str, Any], rows: int = 2) -> int:
    """Requests that a pool paints at once, from its entry of ``/pools``; at least its replicas.

    Args:
        shown: the entry.
        rows: of one request: two when guided.
    """
    ready = max(1, int(shown["ready_replicas"]))
    measured = shown.get("measured")
    return ready * max(1, int(measured["max_rows"]) // rows) if measured else ready


def curve_rate(shown: Mapping[str, Any], steps: int | None, rows: int = 2) -> float | None:
    """Pictures a second that the calibrated step costs promise; ``None``: unknown.

    Args:
        shown: the pool's entry of ``/pools``.
        steps: of a default request.
        rows: of one request: two when guided.
    """
    measured = shown.get("measured")
    if not measured or not steps:
        return None
    costs = {int(size): cost_ms for size, cost_ms in measured["step_cost_ms"].items()}
    most = max(size for size in costs if size <= measured["max_rows"])
    per_step = costs[most] * max(1, rows / most) / 1000
    together = max(1, int(shown["ready_replicas"])) * max(1, most // rows)
    rate: float = together / (steps * per_step)
    return rate
