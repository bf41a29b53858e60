"""What each pool's replicas were measured to do, asked once while the pool is available."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from serve_app.routing.snapshot import PoolSnapshot, Sizes
from serve_app.routing.speed import Speed

Learned = Callable[[str, Speed, Sizes | None], None]

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0
_AGAIN_S = 5.0


class Describing(Protocol):
    """A pool that can be asked about itself."""

    async def describe(self) -> dict[str, Any]:
        """See ``PoolReplica.describe``."""


class Measurements:
    """Keeps what one replica of each available pool says of itself (they are all alike).

    Args:
        handles: one handle per pool.
        learned: told the name of each pool that has described itself, its speed and the only
            picture sizes that it paints (``None``: any).
    """

    def __init__(
        self,
        handles: Mapping[str, Describing],
        learned: Learned = lambda name, speed, sizes: None,
    ) -> None:
        self._handles = handles
        self._learned = learned
        self._known: dict[str, dict[str, Any]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}

    def refresh(self, pools: Sequence[PoolSnapshot]) -> None:
        """Ask, in the background, the available pools that have not described themselves."""
        for pool in pools:
            if pool.available and pool.name not in self._known:
                self._ask(pool.name)
            elif not pool.available:
                self._known.pop(pool.name, None)
                self._not_before.pop(pool.name, None)

    async def of(self, pools: Sequence[PoolSnapshot]) -> Mapping[str, Mapping[str, Any]]:
        """Descriptions by pool; a pool without a replica, or one that fails to answer, has none."""
        self.refresh(pools)
        await asyncio.gather(*self._asking.values())
        return self._known

    def _ask(self, name: str) -> None:
        if name not in self._asking and time.monotonic() >= self._not_before.get(name, 0.0):
            task = asyncio.get_running_loop().create_task(self._listen(name))
            self._asking[name] = task
            task.add_done_callback(lambda _: self._asking.pop(name, None))

    async def _listen(self, name: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                description = await self._handles[name].describe()
            speed = Speed(description["step_cost_ms"], description["max_rows"])
            self._learned(name, speed, _sizes(description))
            self._known[name] = description
        except Exception as error:  # it is asked again later; the pool may just have gone
            self._not_before[name] = time.monotonic() + _AGAIN_S
            log.warning(
                "pool %s does not describe itself: %s: %s", name, type(error).__name__, error
            )


def _sizes(description: Mapping[str, Any]) -> Sizes | None:
    told = description.get("sizes")
    return None if told is None else frozenset((int(width), int(height)) for width, height in told)
