"""What pools say of themselves: asked once while available, forgotten with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.routing.measurements import Measurements
from serve_app.routing.snapshot import Sizes
from serve_app.routing.speed import Speed
from tests.serve_app.conftest import Stand, snapshot


class Pool:
    def __init__(self, outcome: Any, **more: Any) -> None:
        self.outcome = outcome
        self.more = more
        self.asked = 0

    async def describe(self) -> dict[str, Any]:
        self.asked += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is None:
            await asyncio.sleep(60)
        return {"max_rows": self.outcome, "step_cost_ms": {1: 10.0}, **self.more}


async def test_asked_once_while_available_and_again_afterwards() -> None:
    cpu, gpu = Pool(4), Pool(8)
    measurements = Measurements({"cpu": cpu, "gpu": gpu})
    up, down = snapshot("cpu"), snapshot("gpu", ready=0)
    for _ in range(2):
        assert await measurements.of([up, down]) == {
            "cpu": {"max_rows": 4, "step_cost_ms": {1: 10.0}}
        }
    assert (cpu.asked, gpu.asked) == (1, 0)
    assert await measurements.of([snapshot("cpu", ready=0)]) == {}
    await measurements.of([up])
    assert cpu.asked == 2


async def test_a_pool_that_fails_or_hangs_has_none_and_holds_no_other_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.routing.measurements._PATIENCE_S", 0.01)
    pools = {"broken": Pool(RuntimeError("gone")), "slow": Pool(None), "good": Pool(2)}
    measurements = Measurements(pools)
    seen = await measurements.of([snapshot(name) for name in pools])
    assert list(seen) == ["good"]
    assert "pool broken does not describe itself: RuntimeError: gone" in caplog.text
    assert "pool slow does not describe itself: TimeoutError" in caplog.text


async def test_the_router_learns_the_speed_in_the_background() -> None:
    learned: dict[str, tuple[Speed, Sizes | None]] = {}

    def note(name: str, speed: Speed, sizes: Sizes | None) -> None:
        learned[name] = (speed, sizes)

    pools = {"cpu": Pool(4), "inf2": Pool(8, sizes=[[512, 768]])}
    measurements = Measurements(pools, note)
    measurements.refresh([snapshot(name) for name in pools])
    assert learned == {}  # asked, not waited for
    await asyncio.sleep(0.01)
    speed, sizes = learned["cpu"]
    assert (speed.max_rows, speed.step_ms(1), sizes) == (4, 10.0, None)
    assert learned["inf2"][1] == {(512, 768)}


def test_pools_shows_the_step_cost(stand: Stand) -> None:
    pools = {pool["name"]: pool for pool in stand.client.get("/pools").json()["pools"]}
    assert pools["gpu"]["measured"] is None
    assert pools["cpu"]["measured"] == {
        "device": "cpu",
        "dtype": "float32",
        "max_rows": 4,
        "graphs": "artifact cpu-64x64",
        "startup_s": {"load": 1.5},
        "step_cost_ms": {"1": 2.5, "2": 4},
        "sizes": None,
    }
