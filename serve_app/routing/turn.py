"""Waiting at the gate, within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.routing.fairness import FairGate
from serve_app.routing.time_limit import TimeLimit
from serve_app.routing.watching import Waiting, Watch
from serve_app.routing.work import Work


class Turn:
    """Waits at the gate, but not beyond the request's time limit.

    Args:
        gate: where.
        key: whose turn.
        work: of the request.
        limit: of the request.
        held: told what waits.
        watch: told the place on entry and whenever it changes.
    """

    def __init__(
        self,
        gate: FairGate,
        key: str,
        work: Work,
        limit: TimeLimit,
        held: Callable[[float], None],
        watch: Watch | None,
    ) -> None:
        placed = None if watch is None else lambda place: watch(Waiting(place=place))
        self._turn = gate.turn(key, work, placed)
        self._work = work
        self._limit = limit
        self._held = held

    async def __aenter__(self) -> None:
        self._held(self._work.row_steps)
        try:
            async with asyncio.timeout(self._limit.left_s()):
                await self._turn.__aenter__()
        except TimeoutError:
            self._limit.check()
            raise
        finally:
            self._held(-self._work.row_steps)

    async def __aexit__(self, *how: object) -> None:
        await self._turn.__aexit__(None, None, None)
