"""BentoML with adaptive batching: a batchable service, and one for single requests before it."""

from __future__ import annotations

from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers.contestants import GATHER
from benchmarks.prompt import Prompt, timing

LONG_MS = 600_000
QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=1, traffic={"timeout": 600}, logging=QUIET)
class Painter:
    """The model's process, the only one that needs torch."""

    def __init__(self) -> None:
        from benchmarks.stock import paint_mixed, start

        start()
        self._paint = paint_mixed

    @bentoml.api(batchable=True, max_batch_size=GATHER, max_latency_ms=LONG_MS)
    def paint(self, prompts: list[Prompt]) -> list[tuple[bytes, float]]:
        """A collected batch."""
        return self._paint(prompts)


@bentoml.service(workers=1, traffic={"timeout": 600, "max_concurrency": 2048}, logging=QUIET)
class Front:
    """One picture a request."""

    painter = bentoml.depends(Painter)

    @bentoml.api(route="/imagine")
    async def imagine(
        self,
        prompt: str,
        context: bentoml.Context,
        seed: int = 0,
        num_inference_steps: int = 8,
        width: int = 64,
        height: int = 64,
    ) -> Annotated[bytes, ContentType("image/png")]:
        """A PNG."""
        one = Prompt(
            prompt=prompt, seed=seed, num_inference_steps=num_inference_steps,
            width=width, height=height,
        )  # fmt: skip
        ((data, took),) = await self.painter.to_async.paint([one])
        context.response.headers.update(timing(took))
        return data
