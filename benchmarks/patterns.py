"""The patterns that common samples use, to be measured against: a pipeline call per request."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from functools import cache
from typing import Any

import torch
from fastapi import FastAPI, Response
from pydantic import BaseModel
from ray import serve
from starlette.requests import Request

from deployments.model import load_pipeline
from deployments.model_info import load_model_info

_LOCK = threading.Lock()


class Prompt(BaseModel):
    """What the samples accept."""

    prompt: str
    seed: int = 0
    num_inference_steps: int = 8


@cache
def pipeline() -> Any:
    """The stock pipeline, loaded once."""
    pipe = load_pipeline("embedded", None)
    return pipe.to("cpu", torch.float32)


def paint(prompt: Prompt) -> tuple[bytes, float]:
    """A PNG and the milliseconds it took, queueing for the pipeline included."""
    begin = time.perf_counter()
    guidance = load_model_info("embedded", None).defaults.guidance_scale
    with _LOCK, torch.inference_mode():
        image = pipeline()(
            prompt.prompt,
            num_inference_steps=prompt.num_inference_steps,
            guidance_scale=guidance,
            generator=torch.Generator("cpu").manual_seed(prompt.seed),
        ).images[0]
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), (time.perf_counter() - begin) * 1000


def answer(prompt: Prompt) -> Response:
    """An HTTP answer with the time in ``Server-Timing``."""
    data, took = paint(prompt)
    headers = {"Server-Timing": f"pipeline;dur={took:.2f}"}
    return Response(data, media_type="image/png", headers=headers)


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
        return await asyncio.to_thread(paint, prompt)


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
        headers = {"Server-Timing": f"pipeline;dur={took:.2f}"}
        return Response(data, media_type="image/png", headers=headers)


serve_app = Front.bind(Painter.options(max_ongoing_requests=100).bind())
