"""The patterns that common samples use, to be measured against: a pipeline call per request."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from fastapi import FastAPI, Response
from ray import serve
from starlette.requests import Request

from benchmarks.prompt import Prompt, timing
from benchmarks.stock import paint, pipeline


def answer(prompt: Prompt) -> Response:
    """An HTTP answer with the time in ``Server-Timing``."""
    (data, took), *_ = paint([prompt])
    return Response(data, media_type="image/png", headers=timing(took))


fastapi_app = FastAPI()


@fastapi_app.get("/ready")
def ready() -> dict[str, bool]:
    pipeline()
    return {"ready": True}


@fastapi_app.post("/imagine")
def imagine(prompt: Prompt) -> Response:
    return answer(prompt)


@serve.deployment
class Painter:
    """One replica that owns the pipeline."""

    def __init__(self) -> None:
        import os

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        pipeline()

    async def paint(self, prompt: Prompt) -> tuple[bytes, float]:
        """In a thread: a blocking call would stall the replica's health checks."""
        return (await asyncio.to_thread(paint, [prompt]))[0]


@serve.deployment(max_ongoing_requests=100)
class Front:
    """One ingress that hands each prompt on."""

    def __init__(self, painter: Any) -> None:
        self._painter = painter

    async def __call__(self, request: Request) -> Response:
        """POST /imagine; anything else answers ready."""
        if request.method == "GET":
            return Response("ready")
        data, took = await self._painter.paint.remote(Prompt(**await request.json()))
        return Response(data, media_type="image/png", headers=timing(took))


serve_app = Front.bind(Painter.options(max_ongoing_requests=100).bind())
