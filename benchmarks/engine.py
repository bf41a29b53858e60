"""Step-level batching against one at a time and against collect-then-run, in one run.

``python -m benchmarks.engine`` prints a table; ``--out FILE`` writes it as Markdown. All three
serve the same model in the same process, so that only the ratios matter, not the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import dataclasses
import os
import platform
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks.hardware import cpu_name
from deployments.backends.cpu import create
from deployments.engine.calibration import choose_rows, measure_step_costs
from deployments.engine.decoding import DEFER_STEPS
from deployments.engine.job import Job
from deployments.engine.service import EngineService
from deployments.messages import ImageRequest, ImageResult, Timings
from deployments.model_info import load_model_info
from deployments.options import ReplicaOptions

COLLECT_S = 0.02
LOADS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Mix:
    """Step counts and how often each occurs."""

    name: str
    steps: tuple[int, ...]
    weights: tuple[float, ...]


MIXES = (
    Mix("equal steps", (8,), (1.0,)),
    Mix("mixed steps", (4, 8, 20), (0.3, 0.5, 0.2)),
)


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
        self._pipe = pipe
        self._batch = batch
        self._pool = ThreadPoolExecutor(1)
        self._queue: deque[tuple[ImageRequest, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def paint(self, request: ImageRequest) -> None:
        """Wait for the batch this request rides in."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((request, future))
        self._wake.set()
        await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            if len(self._queue) < self._batch:
                await asyncio.sleep(COLLECT_S)
            steps = self._queue[0][0].num_inference_steps
            taken = [e for e in self._queue if e[0].num_inference_steps == steps][: self._batch]
            self._queue = deque(e for e in self._queue if e not in taken)
            if not self._queue:
                self._wake.clear()
            requests = [request for request, _ in taken]
            await loop.run_in_executor(self._pool, run_pipeline, self._pipe, requests)
            for _, future in taken:
                future.set_result(None)


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


async def run(args: argparse.Namespace, console: Console) -> str:
    """Measure everything and return the table as Markdown."""
    options = ReplicaOptions(
        pool="bench", accelerator="cpu", framework="cpu", model_source=args.model
    )
    info = load_model_info(args.model, None)
    backend = create(options)
    d = info.defaults

    def make(index: int, steps: int) -> ImageRequest:
        return ImageRequest(
            request_id=str(index), prompt=f"{index % 9} red circles", negative_prompt="",
            width=d.width, height=d.height, num_inference_steps=steps,
            guidance_scale=d.guidance_scale, seed=index,
        )  # fmt: skip

    def finish(job: Job, pixels: NDArray[np.uint8]) -> ImageResult:
        timings = Timings(queue=0, encode=0, denoise=0, decode=0, total=0)
        return ImageResult(image=b"", media_type="", seed=job.request.seed, timings=timings)

    costs = measure_step_costs(backend, d.height, d.width, options.max_rows)
    rows = choose_rows(costs)
    services: list[EngineService] = []

    def engine(defer_steps: int = DEFER_STEPS, **facts: Any) -> EngineService:
        other = copy.copy(backend)
        other.facts = dataclasses.replace(backend.facts, **facts)
        service = EngineService(
            other,
            finish,
            max_rows=rows,
            max_queued=10**6,
            admission="deadline",
            defer_steps=defer_steps,
        )
        services.append(service)
        return service

    servers: list[Server] = [
        OneAtATime(backend.pipe),
        CollectThenRun(backend.pipe, rows // 2),
        StepLevel(engine()),
    ]
    if args.decoding:
        beside = backend.facts.overlap_decode
        how = "between the steps" if beside else "beside the steps"
        servers += [
            StepLevel(engine(overlap_decode=not beside), f"engine, decode {how}"),
            StepLevel(
                engine(overlap_decode=False, defer_steps=0, decode_batch=1),
                "engine, decode each at once",
            ),
        ]
    curve = ", ".join(f"{b}: {cost / b:.2f}" for b, cost in costs.items())
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {torch.get_num_threads()} thread(s) on {os.cpu_count()} "
        f"cores of {cpu_name()}, "
        f"torch {torch.__version__}, Python {platform.python_version()}, model `{args.model}` "
        f"{d.width}×{d.height}, {args.requests} requests a cell "
        f"in {args.turns} turns, open-loop Poisson arrivals.",
        f"Step cost per row in ms by rows: {curve}; the engine runs {rows} rows, static batching "
        f"{rows // 2} guided pictures. Load is a share of static batching's saturated throughput.",
        "",
        "| mix | load | server | images/s | ÷ one at a time | p50 s | p95 s | p99 s "
        "| p50 ÷ static | p95 ÷ static |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    mixes = [mix for mix in MIXES if args.mix in (None, mix.name)]
    total = len(mixes) * (len(LOADS) + 1) * len(servers) * args.turns
    with Progress(console=console) as progress:
        task = progress.add_task("benchmarking", total=total)
        for mix in mixes:
            capacity = 0.0
            for load in (None, *LOADS):
                cells = {server.name: Cell() for server in servers}
                for turn in range(args.turns):
                    # In turns, all with the same requests: the machine's speed drifts.
                    n, seed = args.requests // args.turns, 100 * turn
                    requests = make_requests(make, mix, n, seed)
                    at = [0.0] * n if load is None else poisson(load * capacity, n, seed + 1)
                    for server in servers:
                        await server.paint(requests[0])
                        cells[server.name].add(*await drive(server, requests, at))
                        progress.advance(task)
                capacity = capacity or cells[CollectThenRun.name].rate
                lines += rows_of(mix.name, "saturated" if load is None else f"{load:.0%}", cells)
    for service in services:
        service.stop()
    return "\n".join(lines)


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


def rows_of(mix: str, load: str, cells: Mapping[str, Cell]) -> list[str]:
    """The Markdown rows of one load."""
    static, slow = cells[CollectThenRun.name], cells[OneAtATime.name]
    lines = []
    for name, cell in cells.items():
        p50, p95, p99 = np.percentile(cell.latencies, [50, 95, 99])
        s50, s95 = np.percentile(static.latencies, [50, 95])
        lines.append(
            f"| {mix} | {load} | {name} | {cell.rate:.2f} | {cell.rate / slow.rate:.2f} "
            f"| {p50:.3f} | {p95:.3f} | {p99:.3f} | {p50 / s50:.2f} | {p95 / s95:.2f} |"
        )
    return lines


def main() -> None:
    """Parse the command line and print (and write) the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded", help="embedded or a local folder")
    parser.add_argument("--requests", type=int, default=240, help="requests per cell")
    parser.add_argument("--turns", type=int, default=4, help="servers take turns, so many times")
    parser.add_argument("--mix", choices=[mix.name for mix in MIXES], help="only this mix")
    parser.add_argument(
        "--decoding", action="store_true", help="also other ways to time the VAE's decoding"
    )
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    console = Console(stderr=True)
    job: Coroutine[Any, Any, str] = run(args, console)
    table = asyncio.run(job)
    sys.stdout.write(table + "\n")
    if args.out:
        args.out.write_text(f"# Engine benchmark\n\n`make bench`\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
