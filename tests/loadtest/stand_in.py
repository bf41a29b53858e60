"""A service's HTTP surface with pretended pools, and its dashboard's, in a thread: no Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.loadtest.painters import shown


@dataclass
class StandIn:
    """Each pool paints one picture after the other, each in ``seconds``.

    ``absent`` pools have no replica. ``fails``: every so manieth request is refused; ``config``:
    the ``user_config`` in force, which the dashboard changes; ``bodies``: all that was asked for.
    """

    seconds: dict[str, float]
    absent: frozenset[str] = frozenset()
    fails: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._turns = {name: asyncio.Lock() for name in self.seconds}

    async def imagine(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.fails and len(self.bodies) % self.fails == 0:
            error = {"message": "full", "type": "x", "param": None, "code": "overloaded"}
            return JSONResponse({"error": error}, 429)
        name = body.get("pool") or list(self.seconds)[len(self.bodies) % len(self.seconds)]
        async with self._turns[name]:
            await asyncio.sleep(self.seconds[name])
        took_ms = self.seconds[name] * 1000
        timing = f"queue;dur=1.0, encode;dur=0.0, denoise;dur={took_ms}, decode;dur=0.0"
        return Response(b"picture", headers={"X-Pool": name, "Server-Timing": timing})

    async def pools(self, request: Request) -> Response:
        config = {"policy": "weighted", "slo_s": 1.0, **self.config}
        weights, profiles = config.get("weights", {}), config.get("profiles", {})
        pools = [
            shown(
                name,
                available=name not in self.absent,
                ready_replicas=int(name not in self.absent),
                price_per_hour=1.0,
                weight=weights.get(name, 50.0),
                profile=profiles.get(name),
            )
            for name in self.seconds
        ]
        told = {"policy": config["policy"], "slo_s": config["slo_s"], "config_problem": None}
        return JSONResponse({**told, "ingress_replicas": 1, "pools": pools})

    async def deployed(self, request: Request) -> Response:
        if request.method == "PUT":
            (application,) = (await request.json())["applications"]
            self.config = application["deployments"][0]["user_config"]
            return Response()
        emulated = {"accelerator": "card", "framework": "emulated", "emulation": {"step_s": 1}}
        application = {
            "name": "imagine",
            "args": {"pools": dict.fromkeys(self.seconds, emulated)},
            "deployments": [{"name": "Ingress", "user_config": self.config}],
        }
        return JSONResponse({"applications": {"imagine": {"deployed_app_config": application}}})

    def routes(self) -> list[Route]:
        return [
            Route("/imagine", self.imagine, methods=["POST"]),
            Route("/pools", self.pools, methods=["GET"]),
            Route("/api/serve/applications/", self.deployed, methods=["GET", "PUT"]),
        ]


@contextmanager
def standing_in(stand_in: StandIn) -> Iterator[StandIn]:
    """Serve it on a free port."""
    config = uvicorn.Config(
        Starlette(routes=stand_in.routes()),
        host="127.0.0.1",
        port=0,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end, "the stand-in does not start"
        time.sleep(0.01)
    (socket,) = server.servers[0].sockets
    stand_in.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    try:
        yield stand_in
    finally:
        server.should_exit = True
        thread.join(20)
