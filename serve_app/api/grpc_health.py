"""``grpc.health.v1``: the truth of ``/readiness``, by pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from grpc_health.v1.health_pb2 import HealthCheckResponse

from serve_app.api.front import Front
from serve_app.settings import INGRESS

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN
# Serve's own view of the pools is as old as that.
_LOOK_S = 0.25
# Each watch takes one of the requests that an ingress replica may have at once.
MOST_WATCHES = 64


class TooManyWatchesError(Exception):
    """More watches than one ingress replica keeps."""


class GrpcHealth:
    """Answers by service name.

    ``""``: whether any pool can paint now, as ``/readiness``; a pool's name: whether that one can;
    ``Ingress``: always, as ``/health``: for liveness.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        self._watches = 0

    def status(self, service: str) -> int:
        """The status of ``service``; ``SERVICE_UNKNOWN`` for one there is not."""
        if service == INGRESS:
            return int(SERVING)
        pools = self._front.pools.snapshots()
        named = [pool for pool in pools if service in ("", pool.name)]
        if not named:
            return int(SERVICE_UNKNOWN)
        return int(SERVING if any(pool.available for pool in named) else NOT_SERVING)

    def all(self) -> dict[str, int]:
        """The status of every service, by name."""
        names = ["", INGRESS, *(pool.name for pool in self._front.pools.snapshots())]
        return {name: self.status(name) for name in names}

    async def watch(self, service: str) -> AsyncIterator[int]:
        """The status now, and again whenever it changes.

        Raises:
            TooManyWatchesError: there are too many already.
        """
        if self._watches >= MOST_WATCHES:
            raise TooManyWatchesError(f"{MOST_WATCHES} watches are open here already")
        self._watches += 1
        try:
            last = None
            while True:
                status = self.status(service)
                if status != last:
                    last = status
                    yield status
                await asyncio.sleep(_LOOK_S)
        finally:
            self._watches -= 1
