"""A service's HTTP surface with pretended pools, in a thread: no Ray."""

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

    ``fails``: every so manieth request is refused; ``profiles``: what ``/pools`` shows of them;
    ``bodies``: all that was asked for.
    """

    seconds: dict[str, float]
    fails: int | None = None
    profiles: dict[str, dict[str, float]] = field(default_factory=dict)
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
        pools = [
            shown(name, price_per_hour=1.0, weight=50.0, profile=self.profiles.get(name))
            for name in self.seconds
        ]
        told = {"policy": "weighted", "slo_s": 1.0, "config_problem": None, "pools": pools}
        return JSONResponse(told)

    def routes(self) -> list[Route]:
        return [
            Route("/imagine", self.imagine, methods=["POST"]),
            Route("/pools", self.pools, methods=["GET"]),
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
