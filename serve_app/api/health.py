"""``GET /health`` and ``GET /readiness``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from serve_app.api.errors import ApiError
from serve_app.api.front import Front

_RETRY_AFTER_S = "5"


class Health:
    """Says whether the process lives and whether pictures can be painted."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def health(self, request: Request) -> JSONResponse:
        """The process answers, whatever the pools do."""
        return JSONResponse({"status": "ok"})

    async def readiness(self, request: Request) -> JSONResponse:
        """200 when some pool can serve now, else 503; says which and why."""
        pools = self._front.pools.snapshots()
        ready = any(pool.available for pool in pools)
        answer = {
            "status": "ready" if ready else "unavailable",
            "pools": {
                pool.name: {
                    "accelerator": pool.accelerator,
                    "available": pool.available,
                    "ready_replicas": pool.ready,
                    "reason": pool.why_unavailable or None,
                }
                for pool in pools
            },
            "config_problem": self._front.config_problem,
        }
        if ready:
            return JSONResponse(answer)
        message = "; ".join(f"{pool.name}: {pool.why_unavailable}" for pool in pools)
        error = ApiError(
            503,
            f"no pool is available ({message})",
            code="unavailable",
            headers={"Retry-After": _RETRY_AFTER_S},
        )
        return error.response(answer)
