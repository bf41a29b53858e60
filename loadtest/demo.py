"""``make demo``: five emulated accelerators under load, while weights change and one is lost.

Nothing here is an accelerator: see ``serve_config.emulated.yaml``. The tour runs by itself; with
``--by-hand`` type ``weights inf2=10 g6=60``, ``policy cost``, ``kill inf2``, ``revive inf2`` or
``quit`` below the table.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import queue
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loadtest.emulated_cluster import EmulatedCluster, emulated_cluster
from loadtest.launching import PortTaken

WINDOW_S = 15.0
START_S = 180.0
PROMPT = "a red circle on a blue background"

# Seconds after the start, and a command.
TOUR: tuple[tuple[float, str], ...] = (
    (20, "weights inf2=10 trn1=30 g5_compiled=25 g6=25 g5_eager=10"),
    (40, "kill inf2"),
    (65, "revive inf2"),
    (95, "policy latency"),
    (110, "policy cost"),
    (130, "quit"),
)


@dataclass
class Answers:
    """What clients saw: answers of the last seconds, and errors of all time."""

    recent: deque[tuple[float, str, float]] = field(default_factory=deque)
    errors: Counter[str] = field(default_factory=Counter)
    total: int = 0

    def add(self, pool: str, took_s: float, now: float) -> None:
        """A picture came from ``pool``."""
        self.total += 1
        self.recent.append((now, pool, took_s))

    def window(self, now: float) -> dict[str, list[float]]:
        """Seconds per picture, by pool, over the last ``WINDOW_S``."""
        while self.recent and self.recent[0][0] < now - WINDOW_S:
            self.recent.popleft()
        found: dict[str, list[float]] = {}
        for _, pool, took_s in self.recent:
            found.setdefault(pool, []).append(took_s)
        return found


class Errands:
    """Things for the main thread to do: Ray starts nodes nowhere else."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = (
            queue.SimpleQueue()
        )

    async def run(self, what: Callable[[], None]) -> None:
        """Have the main thread do ``what``, and wait for it; its errors rise here."""
        done: Future[None] = Future()
        self._queue.put((what, done))
        await asyncio.wrap_future(done)

    def serve(self, until: Thread) -> None:
        """Do errands until that thread ends."""
        while until.is_alive():
            try:
                what, done = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                what()
            except Exception as error:  # handed to whoever asked
                done.set_exception(error)
            else:
                done.set_result(None)


@dataclass
class Demo:
    """The running demonstration."""

    cluster: EmulatedCluster
    errands: Errands
    answers: Answers = field(default_factory=Answers)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=6))
    began: float = field(default_factory=time.monotonic)
    over: bool = False
    last: Group | None = None

    async def do(self, command: str) -> None:
        """Carry a command out; what cannot be is told and changes nothing."""
        at = f"{time.monotonic() - self.began:5.0f} s  "
        try:
            await self.errands.run(lambda: carry_out(self.cluster, command, self.quit))
        except (ValueError, httpx.HTTPError) as error:
            self.events.append(f"{at}{command}: {error}")
        else:
            self.events.append(f"{at}{command}")

    def quit(self) -> None:
        """End the demonstration."""
        self.over = True


def carry_out(cluster: EmulatedCluster, command: str, leave: Callable[[], None]) -> None:
    """Do what ``command`` says.

    Raises:
        ValueError: it is not understood; says what is.
        httpx.HTTPError: the service does not take the change.
    """
    match command.split():
        case ["weights", *pairs] if pairs:
            cluster.configure(policy="weighted", weights=dict(map(_weight, pairs)))
        case ["policy", name]:
            cluster.configure(policy=name)
        case ["kill" | "revive" as what, pool]:
            if pool not in cluster.pools:
                raise ValueError(f"no pool {pool!r}; there are {', '.join(cluster.pools)}")
            (cluster.kill if what == "kill" else cluster.revive)(pool)
        case ["quit"]:
            leave()
        case _:
            raise ValueError(
                "not understood; say weights POOL=N ..., policy NAME, kill POOL, revive POOL or"
                " quit"
            )


def _weight(pair: str) -> tuple[str, float]:
    name, equals, number = pair.partition("=")
    if not equals:
        raise ValueError(f"{pair!r} is not POOL=NUMBER")
    return name, float(number)


async def load(demo: Demo, rate: float) -> None:
    """Send requests at random times, ``rate`` a second, whatever comes back (open loop)."""
    chance = random.Random(5)
    async with (
        httpx.AsyncClient(base_url=demo.cluster.url, timeout=60) as client,
        asyncio.TaskGroup() as group,
    ):
        seed = 0
        while not demo.over:
            await asyncio.sleep(chance.expovariate(rate))
            seed += 1
            group.create_task(_one(demo, client, seed))


async def _one(demo: Demo, client: httpx.AsyncClient, seed: int) -> None:
    began = time.monotonic()
    try:
        answer = await client.post("/imagine", json={"prompt": PROMPT, "seed": seed})
    except httpx.TransportError as error:
        demo.answers.errors[type(error).__name__] += 1
        return
    now = time.monotonic()
    if answer.status_code == 200:
        demo.answers.add(answer.headers["x-pool"], now - began, now)
    else:
        demo.answers.errors[str(answer.status_code)] += 1


def picture(demo: Demo, shown: dict[str, Any]) -> Group:
    """The table of all pools and the latest events, from an answer of ``/pools``."""
    seen = demo.answers.window(time.monotonic())
    total = sum(map(len, seen.values()))
    span_s = min(WINDOW_S, time.monotonic() - demo.began)
    table = Table(
        title=f"EMULATED accelerators: the CPU paints at their speed\npolicy {shown['policy']},"
        f" {demo.answers.total} pictures, errors: {dict(demo.answers.errors) or 'none'}",
        caption="$/1,000: for a thousand pictures at the full rate; now: at the present one",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for name in ("pool", "state", "plan", "share"):
        table.add_column(name, no_wrap=True)
    for name in ("/min", "p50 s", "p95 s", "$/1,000", "now"):
        table.add_column(name, justify="right", no_wrap=True)
    for pool in shown["pools"]:
        took = sorted(seen.get(pool["name"], ()))
        rate = len(took) / span_s * 60
        share = len(took) / total if total else 0.0
        table.add_row(
            pool["name"],
            _state(pool),
            "-" if pool["share"] is None else f"{pool['share']:.0%}",
            f"{share:4.0%} {'█' * round(8 * share)}",
            f"{rate:.0f}",
            _quantile(took, 0.5),
            _quantile(took, 0.95),
            "-" if pool["cost_per_1000"] is None else f"{pool['cost_per_1000']:.3f}",
            f"{pool['price_per_hour'] / 60 / rate * 1000:.3f}" if rate else "-",
        )
    lines = [Text(event, style="dim") for event in demo.events]
    if shown["config_problem"]:
        lines.append(Text(shown["config_problem"], style="red"))
    return Group(table, *lines)


def _state(pool: dict[str, Any]) -> str:
    if not pool["available"]:
        return "[red]starting[/]" if pool["starting_replicas"] else "[red]gone[/]"
    return "[green]up[/]" if pool["breaker"] == "closed" else "[yellow]left alone[/]"


def _quantile(took: Sequence[float], share: float) -> str:
    return f"{took[math.ceil(share * len(took)) - 1]:.2f}" if took else "-"


async def watch(demo: Demo, live: Live) -> None:
    """Draw the table twice a second."""
    async with httpx.AsyncClient(base_url=demo.cluster.url, timeout=10) as client:
        while not demo.over:
            try:
                demo.last = picture(demo, (await client.get("/pools")).json())
                live.update(demo.last)
            except httpx.TransportError as error:
                demo.events.append(f"/pools: {type(error).__name__}")
            await asyncio.sleep(0.5)


async def tour(demo: Demo, commands: Sequence[tuple[float, str]]) -> None:
    """Carry out each command at its time."""
    for at, command in commands:
        await asyncio.sleep(max(0.0, demo.began + at - time.monotonic()))
        await demo.do(command)


async def by_hand(demo: Demo) -> None:
    """Carry out what is typed."""
    while not demo.over:
        line = await asyncio.to_thread(sys.stdin.readline)
        await demo.do(line.strip() or "quit")


async def ready(cluster: EmulatedCluster, console: Console) -> None:
    """Wait until every pool can serve.

    Raises:
        TimeoutError: they do not come up.
    """
    with console.status("starting five replicas ...") as status:
        async with (
            asyncio.timeout(START_S),
            httpx.AsyncClient(base_url=cluster.url, timeout=10) as client,
        ):
            while True:
                try:
                    pools = (await client.get("/readiness")).json()["pools"]
                except (httpx.TransportError, ValueError, KeyError):
                    pools = {}  # the front door is not up yet
                up = [name for name, pool in pools.items() if pool["available"]]
                status.update(f"starting replicas, up: {', '.join(up) or 'none yet'}")
                if len(up) == len(cluster.pools):
                    return
                await asyncio.sleep(0.5)


async def run(demo: Demo, console: Console, args: argparse.Namespace) -> None:
    """The whole demonstration on a running cluster."""
    await ready(demo.cluster, console)
    demo.began = time.monotonic()
    commands = [(at * args.pace, command) for at, command in TOUR]
    with Live(console=console, refresh_per_second=4) as live:
        async with asyncio.TaskGroup() as group:
            group.create_task(load(demo, args.rate))
            group.create_task(watch(demo, live))
            group.create_task(by_hand(demo) if args.by_hand else tour(demo, commands))


def main() -> None:
    """Parse the command line and run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=3.0, help="requests a second")
    parser.add_argument("--pace", type=float, default=1.0, help="stretches the tour's times")
    parser.add_argument("--by-hand", action="store_true", help="type commands; no tour")
    parser.add_argument("--port", type=int, help="HTTP port instead of the config's")
    parser.add_argument("--dashboard-port", type=int, default=8265)
    parser.add_argument("--svg", type=Path, help="where to save the last table as a picture")
    args = parser.parse_args()
    try:
        show(args)
    except PortTaken as error:
        parser.error(f"--port, --dashboard-port: {error}")


def show(args: argparse.Namespace) -> None:
    """Run it as the command line says."""
    console = Console()
    console.print("Emulated accelerators: real pictures, pretended speed. Starting a cluster ...")
    with emulated_cluster(port=args.port, dashboard_port=args.dashboard_port) as cluster:
        demo, failures = Demo(cluster, Errands()), list[BaseException]()

        def tell() -> None:
            try:
                asyncio.run(run(demo, console, args))
            except BaseException as error:  # raised again below, in the main thread
                failures.append(error)

        thread = Thread(target=tell, daemon=True)
        thread.start()
        try:
            demo.errands.serve(thread)
        except KeyboardInterrupt:
            demo.quit()
            thread.join(10)
        if failures:
            raise failures[0]
    console.print(f"{demo.answers.total} pictures; errors: {dict(demo.answers.errors) or 'none'}")
    for event in demo.events:
        console.print(f"  {event}", highlight=False)
    if args.svg is not None and demo.last is not None:
        paper = Console(record=True, width=80, file=io.StringIO())
        paper.print(demo.last)
        paper.save_svg(str(args.svg), title="make demo")
    if demo.answers.errors:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
