"""``python -m loadtest run``: load of a given shape, and a report."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.bodies import bodies
from loadtest.command import (
    add_service,
    api_key,
    interruptible,
    positive,
    started_at,
    write_json,
)
from loadtest.exits import Exit
from loadtest.fleet import Fleet
from loadtest.host import HostWatch
from loadtest.openloop import drive
from loadtest.outcome import Outcome
from loadtest.plot import plot
from loadtest.report import Report, make_report
from loadtest.service import Body, LoadedService, Unreachable
from loadtest.shapes import SHAPES, ShapeOptions, arrivals, due_times
from loadtest.trace import read_trace, write_trace

_ABOUT = "load of a given shape, and a report"

Schedule = list[tuple[float, Body]]


def add_to(commands: Any) -> None:
    """Add the command to argparse's."""
    parser: argparse.ArgumentParser = commands.add_parser("run", help=_ABOUT, description=_ABOUT)
    add_service(parser)
    parser.add_argument("--shape", choices=SHAPES, default="poisson")
    parser.add_argument(
        "--rate", type=positive, help="requests a second: cosine's top, burst's base"
    )
    parser.add_argument("--duration", type=positive, help="seconds; replay: at most")
    parser.add_argument("--pool", help="pin every request")
    parser.add_argument("--body", type=_fields, default={}, help="JSON object of request fields")
    parser.add_argument("--trace", type=Path, help="replay: JSON lines or CSV of at_s and body")
    parser.add_argument("--record", type=Path, help="write what is sent as a trace")
    parser.add_argument("--low", type=float, help="cosine: bottom (default: a tenth of the top)")
    parser.add_argument("--period", type=positive, help="cosine: seconds (default: the duration)")
    parser.add_argument("--factor", type=positive, default=5.0, help="burst: times the rate")
    parser.add_argument("--burst-from", type=float, help="burst: second it starts")
    parser.add_argument("--burst-for", type=positive, help="burst: seconds it stays")
    parser.set_defaults(command=lambda options: command(parser, options))


def command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Exit:
    """Carry it out."""
    console = Console(stderr=True)
    try:
        schedule, due_s = make_schedule(options)
        key = api_key(options)
        if options.record is not None:
            write_trace(options.record, schedule)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        report, outcomes = asyncio.run(load(options, schedule, due_s, key, console))
    except Unreachable as error:
        console.print(str(error), style="red", markup=False)
        return Exit.UNREACHABLE
    show(report, Console())
    if options.out is not None:
        write_json(options.out / "report.json", report.as_json())
        plot(report, outcomes, options.out / "report.png")
        console.print(f"{options.out}/report.json, report.png", highlight=False)
    if report.partial:
        return Exit.INTERRUPTED
    return Exit.SOME_FAILED if report.failed else Exit.DONE


def make_schedule(options: argparse.Namespace) -> tuple[Schedule, float]:
    """When to send what, and how many seconds that takes.

    Raises:
        ValueError: options that make no schedule.
        OSError: the trace cannot be read.
    """
    pin = {} if options.pool is None else {"pool": options.pool}
    if options.shape == "replay":
        if options.trace is None:
            raise ValueError("--trace: missing; shape replay needs it")
        recorded = read_trace(options.trace)
        # Beyond its end nothing is due: rates are over what there was.
        until_s = min(options.duration or math.inf, recorded[-1][0])
        schedule: Schedule = [(at_s, {**body, **pin}) for at_s, body in recorded if at_s <= until_s]
        return schedule, until_s
    for name in ("rate", "duration"):
        if getattr(options, name) is None:
            raise ValueError(f"--{name}: missing; shape {options.shape} needs it")
    shape = ShapeOptions(
        rate=options.rate,
        duration_s=options.duration,
        low=options.low,
        period_s=options.period,
        factor=options.factor,
        burst_from_s=options.burst_from,
        burst_for_s=options.burst_for,
    )
    times = due_times(arrivals(options.shape, shape), options.duration, options.seed)
    wanted = islice(bodies(options.body, options.pool, options.seed), len(times))
    return list(zip(times, wanted, strict=True)), options.duration


async def load(
    options: argparse.Namespace,
    schedule: Schedule,
    due_s: float,
    key: str | None,
    console: Console,
) -> tuple[Report, Sequence[Outcome]]:
    """Send the schedule and sum up.

    Raises:
        Unreachable: the service does not show its pools.
    """
    stop, outcomes, fleet = asyncio.Event(), list[Outcome](), Fleet()
    asked = {
        "url": options.url,
        "shape": options.shape,
        "rate": options.rate,
        "duration_s": due_s,
        "pool": options.pool,
        "seed": options.seed,
        "started_at": started_at(),
    }
    async with LoadedService(options.url, key, options.timeout) as service:
        fleet.add(await service.pools(), 0.0)
        bar = Progress(
            TextColumn("{task.fields[counts]}"), BarColumn(), TimeElapsedColumn(), console=console
        )
        with bar, interruptible(stop):
            task = bar.add_task("", total=len(schedule), counts="")
            # Counted as they come: to go through all outcomes for each is quadratic, and lags.
            sent = wrong = 0

            def redraw() -> None:
                counts = f"sent {sent}/{len(schedule)}, pictures {len(outcomes) - wrong}"
                bar.update(task, completed=len(outcomes), counts=f"{counts}, errors {wrong}")

            def sending() -> None:
                nonlocal sent
                sent += 1
                redraw()

            def told(outcome: Outcome) -> None:
                nonlocal wrong
                outcomes.append(outcome)
                wrong += not outcome.ok
                redraw()

            host = HostWatch()
            watching = asyncio.create_task(fleet.watch(service))
            try:
                await drive(schedule, service.paint, told, sending=sending, stop=stop)
            finally:
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
    if stop.is_set():
        due_s = max((one.due_s for one in outcomes), default=0.0)
    report = make_report(
        asked,
        outcomes,
        fleet,
        host.look([one.lag_s for one in outcomes]),
        planned=len(schedule),
        due_s=due_s,
        partial=stop.is_set(),
    )
    return report, outcomes


def show(report: Report, console: Console) -> None:
    """Print the report."""
    if report.partial:
        console.print("PARTIAL: interrupted", style="bold yellow")
    console.print(
        f"{report.sent} of {report.planned} sent, {report.pictures} pictures, {report.failed}"
        f" failed, {report.interrupted} interrupted; offered {report.offered_per_s:.2f}/s, served"
        f" {report.served_per_s:.2f}/s",
        highlight=False,
    )
    table = Table(box=None)
    for column in ("seconds", *report.latency_s["corrected"]):
        table.add_column(column, justify="left" if column == "seconds" else "right")
    for name, values in report.latency_s.items():
        table.add_row(f"{name}, all", *map(_number, values.values()))
    for name, pool in report.pools.items():
        if pool.pictures:
            table.add_row(f"corrected, {name}", *map(_number, pool.latency_s.values()))
    console.print(table)
    table = Table(box=None)
    for column in ("pool", "pictures", "share", "replicas", "$", "$ per 1,000"):
        table.add_column(column, justify="left" if column == "pool" else "right")
    for name, pool in report.pools.items():
        table.add_row(
            f"{name} (emulated)" if pool.emulated else name,
            str(pool.pictures),
            f"{pool.share:.1%}",
            _number(pool.mean_replicas),
            _number(pool.dollars),
            _number(pool.dollars_per_1000),
        )
    console.print(table)
    for kind, count in report.errors.items():
        console.print(f"{count} x {kind}", style="red", markup=False, highlight=False)
    for problem in report.problems:
        console.print(problem, style="yellow", markup=False, highlight=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(f"got {text}; allowed: an object of request fields")
    return fields
