"""The health service's truth, without Serve; ``tests/e2e/test_watch.py`` asks over gRPC."""

from __future__ import annotations

import asyncio

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from serve_app.api import grpc_health
from serve_app.api.grpc_health import GrpcHealth, TooManyWatchesError
from serve_app.routing.snapshot import PoolState
from tests.serve_app.conftest import Stand

NAMES = HealthCheckResponse.ServingStatus


def test_each_service_tells_the_truth_of_its_pool(stand: Stand) -> None:
    health = GrpcHealth(stand.front)

    def all_of_them() -> dict[str, str]:
        return {name: NAMES.Name(status) for name, status in health.all().items()}

    assert all_of_them() == {
        "": "SERVING",
        "Ingress": "SERVING",
        "cpu": "SERVING",
        "gpu": "NOT_SERVING",
    }
    stand.states["cpu"] = PoolState(starting=1)
    assert all_of_them() == {
        "": "NOT_SERVING",
        "Ingress": "SERVING",
        "cpu": "NOT_SERVING",
        "gpu": "NOT_SERVING",
    }
    assert stand.client.get("/readiness").status_code == 503
    stand.states["gpu"] = PoolState(ready=1)
    assert all_of_them()[""] == all_of_them()["gpu"] == "SERVING"
    assert NAMES.Name(health.status("tpu")) == "SERVICE_UNKNOWN"


async def test_a_watch_sees_a_pool_go_and_come_back(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_health, "_LOOK_S", 0.01)
    health, seen = GrpcHealth(stand.front), []
    watch = health.watch("cpu")
    for state in (PoolState(ready=1), PoolState(starting=1), PoolState(ready=2)):
        stand.states["cpu"] = state
        async with asyncio.timeout(5):
            seen.append(NAMES.Name(await anext(watch)))
    assert seen == ["SERVING", "NOT_SERVING", "SERVING"]
    # More replicas of a pool that serves are no news.
    stand.states["cpu"] = PoolState(ready=3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await anext(watch)


async def test_watches_are_bounded(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_health, "MOST_WATCHES", 2)
    health = GrpcHealth(stand.front)
    first, second, third = (health.watch("") for _ in range(3))
    await anext(first)
    await anext(second)
    with pytest.raises(TooManyWatchesError):
        await anext(third)
    await first.aclose()  # type: ignore[attr-defined]
    assert await anext(health.watch("")) == HealthCheckResponse.SERVING
