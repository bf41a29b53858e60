"""Requests that wait for a first replica when every pool that may serve them is at zero."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from serve_app.autoscaling.meter import DemandMeter
from serve_app.routing.watching import Waiting, Watch
from serve_app.routing.work import Work

_LOOK_S = 0.1


class Holding:
    """Lets requests wait while nothing is available, if something may come.

    What waits is told to the meter: a pool at zero has no voice of its own.

    Args:
        meter: is told.
        elastic: pools whose replicas come on demand.
        available: whether a pool, or any with ``None``, can be sent a request now that asks for
            this LoRA adapter, or for none.
    """

    def __init__(
        self,
        meter: DemandMeter,
        elastic: Collection[str],
        available: Callable[[str | None, str | None], bool],
    ) -> None:
        self._meter = meter
        self._elastic = frozenset(elastic)
        self._available = available
        self.hold_s = 0.0
        self.waiting = 0

    async def wait(
        self,
        work: Work,
        pin: str | None,
        left_s: Callable[[], float],
        watch: Watch | None = None,
    ) -> bool:
        """Wait until something is available; false when it is not within the limits.

        Args:
            work: of the request.
            pin: the only pool it may go to.
            left_s: seconds left to the request.
            watch: told that it waits, if it does.
        """
        if not (self._elastic if pin is None else pin in self._elastic) or self.hold_s == 0:
            return False
        if watch is not None:
            watch(Waiting(place=None))
        self.waiting += 1
        self._meter.held(work.row_steps, pin)
        try:
            async with asyncio.timeout(min(self.hold_s, left_s())):
                # Polled, as what it looks at is polled too.
                while not self._available(pin, work.lora):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            return False
        finally:
            self.waiting -= 1
            self._meter.held(-work.row_steps, pin)
        return True
