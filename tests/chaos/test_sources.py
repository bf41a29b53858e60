"""What a replica needs to start is out of reach, does not fit on the disk, or is damaged."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.chaos.shared import DAMAGED, HUB, REPO, Shared
from tests.chaos.stand import BACK_WITHIN_S, picture, request
from tests.e2e.conftest import wait_for
from tests.hub_server import running_hub

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REQUESTS = 150


def ask(stand: Shared, asked: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{stand.url}/imagine", json=asked, timeout=60)


def reason(stand: Shared, pool: str) -> str:
    return str(stand.pool(pool)["reason"])


async def test_the_hub_is_out_of_reach_at_the_start_and_then_the_disk_is_full(
    fresh: Shared,
) -> None:
    """The pool says why it is not ready, others serve, and it comes up by itself."""

    def start() -> None:
        fresh.scale(**{HUB: 1})
        wait_for("the reason", lambda: "loras.hat" in reason(fresh, HUB), BACK_WITHIN_S)

    outcome = await fresh.run(start, count=REQUESTS, after=10)
    fresh.check("hub out of reach", outcome)
    print(reason(fresh, HUB))
    assert "replica(s) starting; the last try failed: ModelError" in reason(fresh, HUB)
    if not fresh.disk.why_not:
        fresh.disk.fill()
    with running_hub(fresh.hub_port) as hub:
        fresh.fill_hub(hub)
        if not fresh.disk.why_not:
            wait_for("the full disk", lambda: "No space" in reason(fresh, HUB), BACK_WITHIN_S)
            outcome = await fresh.run(count=20)
            fresh.check("disk full for what is fetched", outcome)
            fresh.disk.free()
        else:
            fresh.ledger.skipped["disk full for what is fetched"] = fresh.disk.why_not
        wait_for("the pool", lambda: bool(fresh.pool(HUB)["available"]), BACK_WITHIN_S)
        assert hub.seen(f"^GET /{REPO}/resolve/")
    asked = request(5) | {"pool": HUB}
    answer = await asyncio.to_thread(ask, fresh, asked)
    assert (answer.status_code, picture(answer)) == (200, fresh.pictures[5])


async def test_a_damaged_artifact_is_refused_by_its_file(fresh: Shared) -> None:
    """The pool says which; the others serve."""

    def start() -> None:
        fresh.scale(**{DAMAGED: 1})
        wait_for("the reason", lambda: "unet-2.pt2" in reason(fresh, DAMAGED), BACK_WITHIN_S)

    outcome = await fresh.run(start, count=REQUESTS, after=10)
    print(reason(fresh, DAMAGED))
    fresh.check("damaged artifact", outcome)
    assert not fresh.pool(DAMAGED)["available"]
    asked = request(5) | {"pool": DAMAGED}
    answer = await asyncio.to_thread(ask, fresh, asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "unet-2.pt2" in answer.json()["error"]["message"]
