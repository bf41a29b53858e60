"""Step-level batching against one at a time and against collect-then-run, in one run.

``python -m benchmarks.engine`` prints a table; ``--out FILE`` writes it as Markdown. All three
serve the same model in the same process, so that only the ratios matter, not the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import dataclasses
import itertools
import os
import platform
import sys
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.hardware import cpu_name
from benchmarks.servers import (
    Cell,
    CollectThenRun,
    Mix,
    OneAtATime,
    Server,
    StepLevel,
    drive,
    finish,
    make_requests,
    poisson,
)
from deployments.backends.cpu import create
from deployments.engine.calibration import choose_rows, measure_step_costs
from deployments.engine.decoding import DEFER_STEPS
from deployments.engine.service import EngineService
from deployments.messages import ImageRequest
from deployments.model_info import load_model_info
from deployments.options import ReplicaOptions

LOADS = (0.5, 0.8, 0.95)


MIXES = (
    Mix("equal steps", (8,), (1.0,)),
    Mix("mixed steps", (4, 8, 20), (0.3, 0.5, 0.2)),
)


async def run(args: argparse.Namespace, console: Console) -> str:
    """Measure everything and return the table as Markdown."""
    options = ReplicaOptions(
        pool="bench", accelerator="cpu", framework="cpu", model_source=args.model
    )
    info = load_model_info(args.model, None)
    backend = create(options)
    d = info.defaults
    numbers = itertools.count()

    def make(index: int, steps: int) -> ImageRequest:
        # No prompt twice: the engine remembers the latest ones' encodings, a pipeline does not.
        return ImageRequest(
            request_id=str(index), prompt=f"{next(numbers)} red circles", negative_prompt="",
            width=d.width, height=d.height, num_inference_steps=steps,
            guidance_scale=d.guidance_scale, seed=index,
        )  # fmt: skip

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
