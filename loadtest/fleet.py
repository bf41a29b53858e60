"""What the pools were while a load ran: prices, replicas, and what they cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.service import LoadedService, Unreachable

PERIOD_S = 2.0


@dataclass
class Fleet:
    """Looks at ``/pools`` again and again.

    Attributes:
        shown: pool name -> its newest entry of ``/pools``.
        replica_s: pool name -> ready replicas times seconds so far.
        seconds: how long it has been looked at.
        missed: looks that failed; what was there before is taken to have stayed.
    """

    shown: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    replica_s: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    missed: int = 0

    def add(self, pools: Mapping[str, Any], passed_s: float) -> None:
        """Count an answer of ``/pools``, that long after the one before."""
        self.seconds += passed_s
        for pool in pools["pools"]:
            name = pool["name"]
            before = self.shown.get(name, pool)
            ready = (before["ready_replicas"] + pool["ready_replicas"]) / 2
            self.replica_s[name] = self.replica_s.get(name, 0.0) + ready * passed_s
            self.shown[name] = pool

    def dollars(self, pool: str) -> float | None:
        """US dollars that its replicas cost so far; ``None`` without a price."""
        price = self.shown.get(pool, {}).get("price_per_hour")
        return None if price is None else price / 3600 * self.replica_s[pool]

    def mean_replicas(self, pool: str) -> float | None:
        """Its ready replicas on average; ``None`` of a pool never seen."""
        if pool not in self.shown:
            return None
        if not self.seconds:
            return float(self.shown[pool]["ready_replicas"])
        return self.replica_s[pool] / self.seconds

    async def watch(self, service: LoadedService) -> None:
        """Look every ``PERIOD_S`` seconds, until cancelled."""
        pools, last = None, time.monotonic()
        try:
            while True:
                try:
                    pools = await service.pools()
                except Unreachable:
                    self.missed += 1
                else:
                    now = time.monotonic()
                    self.add(pools, now - last)
                    last = now
                await asyncio.sleep(PERIOD_S)
        finally:  # what has passed since the last look is paid for as well
            if pools is not None:
                self.add(pools, time.monotonic() - last)
