"""The patterns that common samples use, to be measured against: a pipeline call per request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from ray import serve
from starlette.requests import Request

from benchmarks.prompt import Prompt, timing
from benchmarks.stock import paint, start_fastest


@asynccontextmanager
async def _load(app: FastAPI) -> AsyncIterator[None]:
    start_fastest()
    yield


fastapi_app = FastAPI(lifespan=_load)


@fastapi_app.post("/imagine")
def imagine(prompt: Prompt) -> Response:
    """In the thread pool, where the lock lets one after the other in."""
    ((data, took),) = paint([prompt])
    return Response(data, media_type="image/png", headers=timing(took))


@serve.deployment
class Painter:
    """One replica that owns the pipeline."""

    def __init__(self) -> None:
        start_fastest()

    async def paint(self, prompt: Prompt) -> tuple[bytes, float]:
        """In a thread: a blocking call would stall the replica's health checks."""
        return (await asyncio.to_thread(paint, [prompt]))[0]


@serve.deployment(max_ongoing_requests=100)
class Front:
    """One ingress that hands each prompt on."""

    def __init__(self, painter: Any) -> None:
        self._painter = painter

    async def __call__(self, request: Request) -> Response:
        """POST /imagine."""
        data, took = await self._painter.paint.remote(Prompt(**await request.json()))
        return Response(data, media_type="image/png", headers=timing(took))


serve_app = Front.bind(Painter.options(max_ongoing_requests=100).bind())
