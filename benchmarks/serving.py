"""The whole service against what people write first, over HTTP, on one machine in one run.

``python -m benchmarks.serving`` starts, one after the other: (a) a FastAPI application that calls
the stock pipeline per request, (b) a Ray Serve application of one ingress and one replica that does
so, (c) this project. Each gets the same requests over the same client; the table shows
throughput, latency, and the time of a request that is not the pipeline's or the engine's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console

from benchmarks.hardware import cpu_name
from loadtest.launching import PortTaken, check_port, end

STARTUP_S = 240.0
STOP_S = 30.0
PROMPT = "a red circle on a blue background"


@dataclass(frozen=True)
class Contestant:
    """A server to measure: how it is started and where it answers."""

    name: str
    command: list[str]
    port: int
    ready: str
    env: dict[str, str]


def contestants() -> list[Contestant]:
    """The patterns, each on its own port."""
    serve = str(Path(sys.executable).with_name("serve"))
    fast = [sys.executable, "-m", "uvicorn", "benchmarks.patterns:fastapi_app", "--port", "8101"]
    # A cluster of its own, whatever else runs on the machine.
    run = [serve, "run", "--address", "local"]
    plain = [*run, "benchmarks.patterns:serve_app"]
    ours = [*run, "serve_config.yaml"]
    proxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    throughput = proxy | {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    return [
        Contestant("FastAPI, pipe(prompt)", [*fast, "--log-level", "error"], 8101, "/ready", {}),
        Contestant("Ray Serve, pipe(prompt)", plain, 8000, "/ready", {}),
        Contestant("imagine-serve", ours, 8000, "/readiness", {}),
        Contestant("imagine-serve, HAProxy", ours, 8000, "/readiness", proxy),
        Contestant("imagine-serve, HAProxy + throughput", ours, 8000, "/readiness", throughput),
    ]


@contextmanager
def running(contestant: Contestant) -> Iterator[float]:
    """Start the server, wait until ready, stop it; yields the seconds it took to be ready.

    Raises:
        PortTaken: another program answers where it would.
        RuntimeError: it did not become ready.
    """
    check_port(contestant.port)
    begin = time.perf_counter()
    # Everyone starts with OpenMP's own defaults, whatever this process was started with.
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    process = subprocess.Popen(
        contestant.command,
        env=plain | {"PYTHONPATH": "."} | contestant.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{contestant.port}{contestant.ready}"
        while True:
            if process.poll() is not None or time.perf_counter() - begin > STARTUP_S:
                raise RuntimeError(f"{contestant.name} did not become ready")
            try:
                if httpx.get(url, timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                pass  # not listening yet
            time.sleep(0.2)
        yield time.perf_counter() - begin
    finally:
        # HAProxy outlives Ray, and whatever is left would answer for the next contestant.
        end(process, STOP_S)


async def measure(port: int, steps: int, n: int, concurrency: int) -> dict[str, float]:
    """Send ``n`` requests, ``concurrency`` at a time; seconds, and milliseconds of overhead."""
    latencies: list[float] = []
    overheads: list[float] = []
    gate = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:

        async def one(seed: int) -> None:
            async with gate:
                begin = time.perf_counter()
                body = {"prompt": PROMPT, "seed": seed, "num_inference_steps": steps}
                answer = await client.post("/imagine", json=body)
                answer.raise_for_status()
                took = (time.perf_counter() - begin) * 1000
                latencies.append(took)
                overheads.append(took - picture_ms(answer))

        await one(0)
        latencies.clear()
        overheads.clear()
        begin = time.perf_counter()
        await asyncio.gather(*(one(seed) for seed in range(n)))
        seconds = time.perf_counter() - begin
    return {
        "rate": n / seconds,
        "p50": float(np.percentile(latencies, 50)),
        "p95": float(np.percentile(latencies, 95)),
        "overhead": statistics.median(overheads),
    }


def picture_ms(answer: httpx.Response) -> float:
    """Milliseconds the picture itself took, from ``Server-Timing``.

    Ours names the replica's phases and a total that the ingress adds, which is no part of it; the
    patterns name one time, that of the pipeline.
    """
    parts = (part.strip().partition(";dur=") for part in answer.headers["server-timing"].split(","))
    times = {name: float(value) for name, _, value in parts}
    phases = ("queue", "encode", "denoise", "decode")
    if all(phase in times for phase in phases):
        return sum(times[phase] for phase in phases)
    return times["pipeline"]


def row(contestant: Contestant, args: argparse.Namespace) -> str:
    """One contestant's line of the table.

    Raises:
        PortTaken, RuntimeError: as ``running``.
    """
    with running(contestant) as ready:
        alone = asyncio.run(measure(contestant.port, args.steps, args.requests, 1))
        many = asyncio.run(measure(contestant.port, args.steps, args.requests * 2, args.clients))
    return (
        f"| {contestant.name} | {ready:.0f} | {alone['overhead']:.1f} | {alone['p50']:.0f} "
        f"| {alone['rate']:.2f} | {many['rate']:.2f} | {many['p50']:.0f} | {many['p95']:.0f} |"
    )


def main() -> None:
    """Measure every contestant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--clients", type=int, default=8, help="how many at once")
    parser.add_argument("--only", help="names that contain this")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    console = Console(stderr=True)
    n = args.clients
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {cpu_name()}, embedded "
        f"model, {args.steps} steps, {args.requests} requests a cell. Overhead: client's time less "
        "the picture's own (queue, encode, denoise, decode) with one client.",
        "",
        f"| server | ready after s | overhead ms | p50 ms, 1 client | images/s, 1 "
        f"| images/s, {n} clients | p50 ms, {n} | p95 ms, {n} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for contestant in contestants():
        if args.only and args.only not in contestant.name:
            continue
        console.print(f"measuring {contestant.name}")
        try:
            lines.append(row(contestant, args))
        except PortTaken as error:
            raise SystemExit(f"{contestant.name}: {error}") from None
        except RuntimeError as error:
            console.print(str(error))
            lines.append(f"| {contestant.name} | did not become ready | | | | | | |")
    table = "\n".join(lines)
    sys.stdout.write(table + "\n")
    if args.out:
        text = f"# Serving benchmark\n\n`make bench`\n\n{table}\n"
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
