"""What routing costs: one decision over eight pools, and the dispatcher at 100 requests/s.

``python -m benchmarks.routing`` prints a table; ``--out FILE`` writes it as Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.hardware import cpu_name
from deployments.messages import ImageFailure, ImageRequest, ImageResult, Timings
from serve_app.live import LiveSettings
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.dispatcher import Dispatcher
from serve_app.routing.policies import POLICIES
from serve_app.routing.router import Decision, WaitLimits, Wishes, route
from serve_app.routing.snapshot import PoolState
from serve_app.routing.speed import Speed
from serve_app.routing.watching import Watch
from serve_app.routing.work import Work
from serve_app.settings import Settings

POOLS = 8
MORE_POOLS = (1, 2, 5, 10, 20, 50)
WORK = Work(2, 8)
SERVICE_S = 0.05
RATE = 100.0
RESULT = ImageResult(
    image=b"",
    media_type="image/png",
    seed=0,
    timings=Timings(queue=0, encode=0, denoise=0, decode=0, total=0),
)


class Reply:
    """Answers after ``SERVICE_S``."""

    async def result(self) -> ImageResult | ImageFailure:
        """A picture."""
        await asyncio.sleep(SERVICE_S)
        return RESULT

    def cancel(self) -> None:
        """Nothing runs."""


class Handle:
    """A pool that always answers."""

    def generate(self, request: ImageRequest, watch: Watch | None = None) -> Reply:
        """Start a reply."""
        return Reply()


def request(seed: int) -> ImageRequest:
    """One default request."""
    return ImageRequest(
        request_id=str(seed), prompt="a", negative_prompt="", width=64, height=64,
        num_inference_steps=8, guidance_scale=3.0, seed=seed,
    )  # fmt: skip


def build(policy: str, pools: int = POOLS) -> tuple[PoolDirectory, Dispatcher]:
    """Pools with speeds, prices and a history, and a dispatcher over them."""
    names = [f"pool{index}" for index in range(pools)]
    settings = Settings.parse(
        {"pools": {name: {"accelerator": name, "framework": "cpu"} for name in names}}
    )
    states = {name: PoolState(ready=2) for name in names}
    directory = PoolDirectory(settings.pools, lambda: states, WORK)
    handles = {name: Handle() for name in names}
    dispatcher = Dispatcher(handles, directory, reference_pixels=64 * 64, timeout_s=60)
    prices = {name: 1.0 + index for index, name in enumerate(names)}
    dispatcher.configure(
        LiveSettings.parse(
            {"policy": policy, "prices": prices, "admission": {"max_wait_s": 30}}, settings
        )
    )
    chance = random.Random(1)
    for name in names:
        directory.measured(name, Speed({1: 10.0, 2: 12.0, 4: 16.0, 8: 30.0, 16: 58.0}, 16))
        record = directory.record(name)
        for _ in range(500):
            record.observations.answered(chance.uniform(0.1, 0.3), 0.1, time.monotonic())
        for _ in range(chance.randrange(12)):
            record.load.add(WORK)
    return directory, dispatcher


def time_decision(policy: str, decisions: int, pools: int = POOLS) -> tuple[float, float]:
    """Median and 99th percentile microseconds of snapshots and routing for one request."""
    directory, dispatcher = build(policy, pools)
    limits, wishes = WaitLimits(total=30.0), Wishes()
    took = []
    for _ in range(decisions):
        began = time.perf_counter()
        choice = route(
            directory.snapshots(),
            dispatcher.policy,
            WORK,
            time.monotonic(),
            wishes=wishes,
            limits=limits,
        )
        took.append((time.perf_counter() - began) * 1e6)
        if not isinstance(choice, Decision):
            raise RuntimeError(choice.message)
    return statistics.median(took), float(np.percentile(took, 99))


async def time_requests(send: Callable[[ImageRequest], object], requests: int) -> list[float]:
    """Milliseconds beyond ``SERVICE_S`` of requests that arrive at ``RATE``."""
    took: list[float] = []

    async def one(index: int) -> None:
        began = time.perf_counter()
        await send(request(index))  # type: ignore[misc]
        took.append((time.perf_counter() - began - SERVICE_S) * 1000)

    chance = random.Random(2)
    async with asyncio.TaskGroup() as group:
        for index in range(requests):
            group.create_task(one(index))
            await asyncio.sleep(chance.expovariate(RATE))
    return took


async def time_dispatcher(requests: int) -> tuple[list[float], list[float]]:
    """The same requests straight to a pool, and through the dispatcher."""
    _, dispatcher = build("latency")
    handle = Handle()
    straight = await time_requests(lambda r: handle.generate(r).result(), requests)
    return straight, await time_requests(dispatcher.paint, requests)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=20_000, help="per policy")
    parser.add_argument("--requests", type=int, default=1000, help="through the dispatcher")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {cpu_name()}, Python"
        f" {platform.python_version()}.",
        "",
        f"One decision over {POOLS} pools (snapshots, predictions, policy), microseconds;"
        f" {args.decisions} decisions each. Goal: at most 50.",
        "",
        "| policy | median | p99 |",
        "|---|---|---|",
    ]
    for policy in sorted(POLICIES):
        median, p99 = time_decision(policy, args.decisions)
        lines.append(f"| {policy} | {median:.0f} | {p99:.0f} |")
    lines += [
        "",
        "The same by the number of pools, policy `latency`.",
        "",
        "| pools | median | p99 |",
        "|---|---|---|",
    ]
    for pools in MORE_POOLS:
        median, p99 = time_decision("latency", args.decisions // 4, pools)
        lines.append(f"| {pools} | {median:.0f} | {p99:.0f} |")
    straight, through = asyncio.run(time_dispatcher(args.requests))
    lines += [
        "",
        f"{args.requests} requests at {RATE:g}/s to pools that answer after {SERVICE_S * 1000:g}"
        " ms, milliseconds beyond that. Goal: the dispatcher adds at most 1.",
        "",
        "| | median | p95 | p99 |",
        "|---|---|---|---|",
    ]
    for name, took in (("straight to a pool", straight), ("through the dispatcher", through)):
        p50, p95, p99 = np.percentile(took, [50, 95, 99])
        lines.append(f"| {name} | {p50:.2f} | {p95:.2f} | {p99:.2f} |")
    table = "\n".join(lines)
    sys.stdout.write(table + "\n")
    if args.out:
        args.out.write_text(
            f"# Routing benchmark\n\n`python -m benchmarks.routing`\n\n{table}\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
