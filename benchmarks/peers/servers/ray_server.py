"""Plain Ray Serve with ``@serve.batch``, in one deployment."""

from __future__ import annotations

import asyncio

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.contestants import COLLECT_S, GATHER
from benchmarks.prompt import Prompt, timing


@serve.deployment(max_ongoing_requests=2048)
class Painter:
    """One replica that owns the pipeline."""

    def __init__(self) -> None:
        from benchmarks.stock import paint_mixed, start

        start()
        self._paint = paint_mixed

    @serve.batch(max_batch_size=GATHER, batch_wait_timeout_s=COLLECT_S)
    async def paint(self, prompts: list[Prompt]) -> list[tuple[bytes, float]]:
        """In a thread: a blocking call would stall the replica's health checks."""
        return await asyncio.to_thread(self._paint, prompts)

    async def __call__(self, request: Request) -> Response:
        """POST /imagine."""
        data, took = await self.paint(Prompt(**await request.json()))
        return Response(data, media_type="image/png", headers=timing(took))


app = Painter.bind()
