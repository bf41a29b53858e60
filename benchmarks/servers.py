"""Ways to serve a model in one process, and open-loop load on them; none of it needs Ray."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.batcher import Batcher
from deployments.engine.job import Job
from deployments.engine.service import EngineService
from deployments.messages import ImageRequest, ImageResult, Timings

COLLECT_S = 0.02


@dataclass(frozen=True)
class Mix:
    """Step counts and how often each occurs."""

    name: str
    steps: tuple[int, ...]
    weights: tuple[float, ...]


class Server(Protocol):
    """Something that paints."""

    name: str

    async def paint(self, request: ImageRequest) -> None:
        """Return when the picture is there."""
        ...


class OneAtATime:
    """The common sample: one stock pipeline call per request, in arrival order."""

    name = "one at a time"

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._pool = ThreadPoolExecutor(1)

    async def paint(self, request: ImageRequest) -> None:
        """Queue behind the others."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, run_pipeline, self._pipe, [request])


class CollectThenRun:
    """Static batching: wait briefly for company of equal step count, run the batch to its end."""

    name = "static batching"

    def __init__(self, pipe: Any, batch: int) -> None:
        def run(requests: Sequence[ImageRequest]) -> Sequence[None]:
            run_pipeline(pipe, requests)
            return [None] * len(requests)

        self._batcher = Batcher(run, lambda r: r.num_inference_steps, batch, COLLECT_S)

    async def paint(self, request: ImageRequest) -> None:
        """Wait for the batch this request rides in."""
        await self._batcher.ask(request)


class StepLevel:
    """The project's engine."""

    def __init__(self, service: EngineService, name: str = "step-level engine") -> None:
        self._service = service
        self.name = name

    async def paint(self, request: ImageRequest) -> None:
        """Join the batch at the next step."""
        answer = await self._service.generate(request)
        if not isinstance(answer, ImageResult):
            raise RuntimeError(answer.message)


@torch.inference_mode()
def run_pipeline(pipe: Any, requests: Sequence[ImageRequest]) -> None:
    """One stock pipeline call for requests of equal step count and guidance."""
    pipe(
        prompt=[r.prompt for r in requests],
        num_inference_steps=requests[0].num_inference_steps,
        guidance_scale=requests[0].guidance_scale,
        width=requests[0].width,
        height=requests[0].height,
        generator=[torch.Generator("cpu").manual_seed(r.seed) for r in requests],
        output_type="np",
    )


async def drive(
    server: Server, requests: Sequence[ImageRequest], arrivals: Sequence[float]
) -> tuple[NDArray[np.float64], float]:
    """Send each request at its time whatever the server does (open loop); latencies and seconds."""
    begin = time.perf_counter()

    async def one(request: ImageRequest, at: float) -> float:
        await asyncio.sleep(max(0.0, begin + at - time.perf_counter()))
        await server.paint(request)
        # From the intended time: a late sender must not hide waiting (coordinated omission).
        return time.perf_counter() - begin - at

    latencies = await asyncio.gather(*(one(r, a) for r, a in zip(requests, arrivals, strict=True)))
    return np.array(latencies), time.perf_counter() - begin


def make_requests(
    make: Callable[[int, int], ImageRequest], mix: Mix, n: int, seed: int
) -> list[ImageRequest]:
    """``n`` requests with the mix's step counts."""
    rng = random.Random(seed)
    return [make(i, rng.choices(mix.steps, mix.weights)[0]) for i in range(n)]


def poisson(rate: float, n: int, seed: int) -> list[float]:
    """Arrival times in seconds of a Poisson process."""
    rng = random.Random(seed)
    times, now = [], 0.0
    for _ in range(n):
        now += rng.expovariate(rate)
        times.append(now)
    return times


def finish(job: Job, pixels: NDArray[np.uint8]) -> ImageResult:
    """An answer without the encoded picture: the other servers do not encode it either."""
    timings = Timings(queue=0, encode=0, denoise=0, decode=0, total=0)
    return ImageResult(image=b"", media_type="", seed=job.request.seed, timings=timings)


@dataclass
class Cell:
    """What one server did with one load, over all turns."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, latencies: NDArray[np.float64], seconds: float) -> None:
        """Count one turn in."""
        self.latencies.extend(latencies)
        self.seconds += seconds

    @property
    def rate(self) -> float:
        """Images per second."""
        return len(self.latencies) / self.seconds
