"""What the pools cost while a load runs."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, cast

import pytest

from loadtest.fleet import PERIOD_S, Fleet
from loadtest.service import LoadedService, Unreachable


class OnePool:
    """Two replicas at 3,600 dollars an hour: two dollars a second."""

    async def pools(self) -> dict[str, Any]:
        return {"pools": [{"name": "a", "ready_replicas": 2, "price_per_hour": 3600.0}]}


@pytest.mark.parametrize("seconds", [PERIOD_S / 4, PERIOD_S * 1.25])
async def test_what_passed_since_the_last_look_is_paid_for(seconds: float) -> None:
    fleet, began = Fleet(), time.monotonic()
    watching = asyncio.create_task(fleet.watch(cast(LoadedService, OnePool())))
    await asyncio.sleep(seconds)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert seconds <= fleet.seconds <= time.monotonic() - began
    assert fleet.dollars("a") == pytest.approx(2 * fleet.seconds)
    assert fleet.mean_replicas("a") == pytest.approx(2)


async def test_a_first_look_that_fails_is_counted_and_not_the_last() -> None:
    class Late(OnePool):
        looks = 0

        async def pools(self) -> dict[str, Any]:
            self.looks += 1
            if self.looks == 1:
                raise Unreachable("not yet")
            return await super().pools()

    fleet = Fleet()
    watching = asyncio.create_task(fleet.watch(cast(LoadedService, Late())))
    await asyncio.sleep(PERIOD_S * 1.25)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert fleet.missed == 1
    assert fleet.seconds > PERIOD_S, "the time without an answer counts as well"
