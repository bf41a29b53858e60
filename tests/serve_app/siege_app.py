"""The HTTP surface with keys and limits, for ``test_siege.py``: a server of its own."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import Any

import uvicorn

from deployments.messages import ImageRequest
from serve_app.api import slow_bodies
from serve_app.api.application import create_app
from serve_app.api.front import Front, default_work
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.outcome import Painted
from serve_app.routing.router import Wishes
from serve_app.routing.snapshot import PoolState
from serve_app.settings import Settings
from tests.serve_app.conftest import (
    MODEL,
    FakeMeasurements,
    FakePainter,
    FakeRouting,
    make_settings,
)

GOOD_KEY, GREEDY_KEY = "im-good", "im-greedy"
BODY_TIMEOUT_S, GRACE_S = 3, 1.0
# So that there are more slow bodies than places: 64 of 256 may be slow, 16 by one caller.
PLACES, SLOW_PLACES = 256, 16
PAINT_S = 0.05


class SlowPainter(FakePainter):
    """Takes a while for each picture."""

    async def paint(self, request: ImageRequest, wishes: Wishes, watch: object = None) -> Painted:
        await asyncio.sleep(PAINT_S)
        painted = await super().paint(request, wishes)
        self.requests.clear()
        self.wishes.clear()
        return painted


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def settings() -> Settings:
    raw: dict[str, Any] = make_settings().model_dump()
    raw["limits"]["body_timeout_s"] = BODY_TIMEOUT_S
    raw["ingress"]["max_ongoing_requests"] = PLACES
    raw["access"] = {
        "keys": {
            "good": {"sha256": digest(GOOD_KEY)},
            "greedy": {
                "sha256": digest(GREEDY_KEY),
                "requests_per_minute": 60,
                "burst": 5,
                "concurrent": 5,
            },
        },
        "audit": {"file": "/dev/null"},
    }
    return Settings.parse(raw)


def main(port: int) -> None:
    """Serve, with the options of Serve's own proxy."""
    slow_bodies.GRACE_S = GRACE_S  # the siege is short
    made, states = settings(), {"cpu": PoolState(ready=1, status="HEALTHY")}
    front = Front(
        settings=made,
        model=MODEL,
        pools=PoolDirectory(made.pools, lambda: states, default_work(MODEL)),
        painter=SlowPainter(),
        routing=FakeRouting(),
        measurements=FakeMeasurements(),
    )
    uvicorn.run(
        create_app(front), host="127.0.0.1", port=port, lifespan="off", access_log=False,
        log_level="critical",
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]))
