"""What each pool's replicas were measured to do, asked once while the pool is available."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from serve_app.routing.snapshot import PoolSnapshot

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0


class Describing(Protocol):
    """A pool that can be asked about itself."""

    async def describe(self) -> dict[str, Any]:
        """See ``PoolReplica.describe``."""


class Measurements:
    """Keeps what one replica of each available pool says of itself (they are all alike).

    Args:
        handles: one handle per pool.
    """

    def __init__(self, handles: Mapping[str, Describing]) -> None:
        self._handles = handles
        self._known: dict[str, dict[str, Any]] = {}

    async def of(self, pools: Sequence[PoolSnapshot]) -> Mapping[str, Mapping[str, Any]]:
        """Descriptions by pool; a pool without a replica, or one that fails to answer, has none."""
        available = [pool.name for pool in pools if pool.available]
        self._known = {name: self._known[name] for name in available if name in self._known}
        await asyncio.gather(*(self._ask(name) for name in available if name not in self._known))
        return self._known

    async def _ask(self, name: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                self._known[name] = await self._handles[name].describe()
        except Exception as error:  # it is asked again next time; the pool may just have gone
            log.warning(
                "pool %s does not describe itself: %s: %s", name, type(error).__name__, error
            )
