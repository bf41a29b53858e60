"""FastAPI around the stock pipeline: ``plain`` one picture at a time, ``batching`` by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response

from benchmarks.batcher import Batcher
from benchmarks.peers.contestants import COLLECT_S, MOST
from benchmarks.prompt import Prompt, kind, timing
from benchmarks.stock import paint, start


@asynccontextmanager
async def _load(app: FastAPI) -> AsyncIterator[None]:
    start()
    yield


plain, batching = FastAPI(lifespan=_load), FastAPI(lifespan=_load)
_batcher: Batcher[Prompt, tuple[bytes, float]] = Batcher(paint, kind, MOST, COLLECT_S)


@plain.post("/imagine")
def imagine(prompt: Prompt) -> Response:
    """In the thread pool, where the lock lets one after the other in."""
    data, took = paint([prompt])[0]
    return Response(data, media_type="image/png", headers=timing(took))


@batching.post("/imagine")
async def imagine_batched(prompt: Prompt) -> Response:
    """With others of equal steps."""
    data, took = await _batcher.ask(prompt)
    return Response(data, media_type="image/png", headers=timing(took))
