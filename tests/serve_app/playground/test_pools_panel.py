"""The panel of pools."""

from __future__ import annotations

import time
from typing import Any

from playwright.sync_api import expect

from serve_app.live import LiveSettings, ProfileSettings
from serve_app.routing.snapshot import PoolState
from tests.serve_app.playground.conftest import House, OpenPage


def test_the_pools_are_shown_as_they_are(opened: OpenPage, house: House) -> None:
    directory: Any = house.stand.front.pools
    directory.configure(
        LiveSettings(
            prices={"cpu": 0.9},
            profiles={"cpu": ProfileSettings(latency_s=0.5, images_per_minute=120)},
        )
    )
    now = time.monotonic()
    for _ in range(10):
        directory.record("cpu").observations.answered(1.0, 0.5, now)
    told = {"target": 3, "reason": "backlog of 12 row-steps"}
    house.stand.front.decision = lambda: {"at": 1.0, "pools": {"cpu": told}}
    with opened() as tab:
        page = tab.page
        expect(page.locator("#pools-state")).to_have_text("1 of 2 available, policy weighted")
        cpu = page.locator("li.pool", has=page.get_by_role("heading", name="cpu"))
        gpu = page.locator("li.pool", has=page.get_by_role("heading", name="gpu"))
        expect(cpu).to_contain_text("1 replica of at most 1")
        for figure in ("Planned100 %", "Traffic100 %", "Latency1.00 s", "p951.00 s", "$0.13"):
            expect(cpu).to_contain_text(figure)
        expect(cpu).to_contain_text("Target 3: backlog of 12 row-steps")
        expect(gpu).to_contain_text("no replica is running (its hardware may be absent)")
        expect(page.get_by_label("Painted by")).to_contain_text("gpu (away)")
        house.stand.states["gpu"] = PoolState(ready=2, starting=1, status="HEALTHY")
        expect(gpu).to_contain_text("2 replicas of at most 1, 1 starting")
        expect(page.locator("#pools-state")).to_have_text("2 of 2 available, policy weighted")
        gpu.get_by_role("button", name="Let gpu paint").click()
        expect(page.get_by_label("Painted by")).to_have_value("gpu")
        expect(gpu.get_by_role("button")).to_have_text("Pinned")
