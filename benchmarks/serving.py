"""The whole service against what people write first, over HTTP, on one machine in one run.

``python -m benchmarks.serving`` starts, one after the other: (a) a FastAPI application that calls
the stock pipeline per request, (b) a Ray Serve application of one ingress and one replica that does
so, (c) this project. Each gets the same requests from the same client, the same settings of OpenMP
and the number of threads that is fastest for it; the table shows throughput, latency, and the time
of a request that is not the pipeline's or the engine's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.hardware import cpu_name
from benchmarks.peers.contestants import PORT, ROOT, Contestant, config, our_config, serving
from benchmarks.peers.lateness import late
from benchmarks.peers.load import Client, Order
from benchmarks.peers.processes import URL, StartError, running
from benchmarks.peers.tables import number
from loadtest.launching import PortTaken


def contestants(folder: Path) -> list[Contestant]:
    """The patterns, all on the same port; configs are written to ``folder``."""
    module = "benchmarks.patterns"
    fast = (sys.executable, "-m", "uvicorn", "--port", str(PORT), "--log-level", "error")
    pattern = {"name": "pattern", "route_prefix": "/", "import_path": f"{module}:serve_app"}
    # As `make serve`: its replica tries how many threads are fastest, as the patterns do.
    ours = serving(folder, our_config(threads=None))
    proxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    throughput = proxy | {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    return [
        Contestant("FastAPI, pipe(prompt)", (*fast, f"{module}:fastapi_app")),
        Contestant("Ray Serve, pipe(prompt)", serving(folder, config([pattern]))),
        Contestant("imagine-serve", ours),
        Contestant("imagine-serve, HAProxy", ours, environment=proxy),
        Contestant("imagine-serve, HAProxy + throughput", ours, environment=throughput),
    ]


def row(contestant: Contestant, folder: Path, args: argparse.Namespace) -> str:
    """One contestant's line of the table.

    Raises:
        StartError: it does not answer.
    """
    orders = [Order(seed, args.steps) for seed in range(args.requests * 2)]
    with running(contestant, folder / f"{contestant.name.replace(' ', '_')}.log") as server:
        client = Client(URL)
        asyncio.run(client.closed_loop(orders[: args.clients], args.clients))  # warm
        alone = asyncio.run(client.closed_loop(orders[: args.requests], 1))
        many = asyncio.run(client.closed_loop(orders, args.clients))
    (beyond,) = late(np.subtract(alone.latencies, alone.models).tolist(), len(alone.errors), 50)
    (median,) = late(alone.latencies, len(alone.errors), 50)
    p50, p95 = late(many.latencies, len(many.errors), 50, 95)
    cells = (
        contestant.name,
        number(server.cold_s, 0),
        number(beyond, 1),
        number(median, 0),
        number(alone.rate),
        number(many.rate),
        number(p50, 0),
        number(p95, 0),
        str(len(alone.errors) + len(many.errors)),
    )
    return f"| {' | '.join(cells)} |"


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
    folder = ROOT / "build" / "serving"
    folder.mkdir(parents=True, exist_ok=True)
    n = args.clients
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {cpu_name()}, embedded model, "
        f"{args.steps} steps, {args.requests} requests alone and twice as many by {n} clients. "
        "Everyone: no spinning OpenMP threads, as many threads as are fastest for it, Ray's "
        "workers at normal priority, another prompt each request. Overhead: client's time less "
        "the picture's own (encode, denoise, decode) with one client.",
        "",
        f"| server | first picture after s | overhead ms | p50 ms, 1 client | images/s, 1 "
        f"| images/s, {n} clients | p50 ms, {n} | p95 ms, {n} | errors |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for contestant in contestants(folder):
        if args.only and args.only not in contestant.name:
            continue
        console.print(f"measuring {contestant.name}")
        try:
            lines.append(row(contestant, folder, args))
        except PortTaken as error:
            raise SystemExit(str(error)) from None
        except StartError as error:
            console.print(str(error))
            lines.append(f"| {contestant.name} | did not answer | | | | | | | |")
    table = "\n".join(lines)
    sys.stdout.write(table + "\n")
    if args.out:
        text = f"# Serving benchmark\n\n`make bench`\n\n{table}\n"
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
