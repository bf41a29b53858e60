"""``GET /pools``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from serve_app.api.answer import model_label
from serve_app.api.front import Front
from serve_app.routing.weighted import normalised_weights


def _measured(description: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The part of a replica's description that does not change while it lives."""
    if description is None:
        return None
    return {
        "device": description["device"],
        "dtype": description["dtype"],
        "max_rows": description["max_rows"],
        "step_cost_ms": {str(rows): cost for rows, cost in description["step_cost_ms"].items()},
    }


class Pools:
    """Shows every declared pool as the router sees it now."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def handle(self, request: Request) -> JSONResponse:
        """Every pool with its replicas, weight and share of the traffic."""
        pools = self._front.pools.snapshots()
        shares = normalised_weights(pools)
        measured = await self._front.measurements.of(pools)
        return JSONResponse(
            {
                "model": model_label(self._front.model),
                "config_problem": self._front.config_problem,
                "pools": [
                    {
                        "name": pool.name,
                        "accelerator": pool.accelerator,
                        "framework": pool.framework,
                        "available": pool.available,
                        "reason": pool.why_unavailable or None,
                        "ready_replicas": pool.ready,
                        "updating_replicas": pool.state.updating,
                        "starting_replicas": pool.state.starting,
                        "draining_replicas": pool.state.draining,
                        "max_replicas": pool.max_replicas,
                        "weight": pool.weight,
                        "share": shares.get(pool.name, 0.0),
                        "status": pool.state.status,
                        "measured": _measured(measured.get(pool.name)),
                    }
                    for pool in pools
                ],
            }
        )
