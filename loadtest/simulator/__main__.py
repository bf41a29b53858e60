"""``python -m loadtest.simulator``: run scenarios with scalers; a table, PNG and JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from loadtest.simulator import simulation
from loadtest.simulator.arrivals import read_trace
from loadtest.simulator.choices import CHOICES
from loadtest.simulator.plot import plot
from loadtest.simulator.report import Report
from loadtest.simulator.scenarios import SCENARIOS
from loadtest.simulator.suite import run_all
from serve_app.routing.policies import POLICIES

_ALL = "all"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.simulator", description=__doc__)
    parser.add_argument("--scenario", nargs="+", choices=[*SCENARIOS, _ALL], default=["day-cost"])
    parser.add_argument("--scaler", nargs="+", choices=[*CHOICES, _ALL], default=["threshold"])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="times the traffic")
    parser.add_argument("--policy", choices=sorted(POLICIES), help="instead of the scenario's")
    parser.add_argument("--trace", type=Path, help="CSV of arrivals instead of the scenario's")
    parser.add_argument("--out", type=Path, help="folder for a PNG per scenario, a JSON per run")
    asked = parser.parse_args(arguments)
    scenarios = list(SCENARIOS) if _ALL in asked.scenario else asked.scenario
    scalers = list(CHOICES) if _ALL in asked.scaler else asked.scaler
    trace = None if asked.trace is None else read_trace(asked.trace)

    console = Console()
    reports: list[Report] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bars:

        def bar(title: str) -> simulation.Progress:
            task = bars.add_task(title, total=1.0)
            return lambda done: bars.update(task, completed=done)

        for report in run_all(
            scenarios,
            scalers,
            asked.seed,
            scale=asked.scale,
            arrivals=trace,
            policy=asked.policy,
            progress=bar,
        ):
            reports.append(report)
            if asked.out is not None:
                asked.out.mkdir(parents=True, exist_ok=True)
                report.save(asked.out / f"{report.scenario}.{report.scaler}.{report.seed}.json")
    console.print(table(reports))
    requests, wall_s = sum(r.requests for r in reports), sum(r.wall_s for r in reports)
    console.print(f"{requests:,} requests in {wall_s:.0f} s")
    if asked.out is not None:
        for scenario, group in groupby(reports, lambda report: report.scenario):
            first_seed = [report for report in group if report.seed == asked.seed[0]]
            plot(first_seed, asked.out / f"{scenario}.png")


def table(reports: Sequence[Report]) -> Table:
    """One line per run."""
    made = Table(title="Simulated runs", box=None, padding=(0, 1, 0, 0))
    made.add_column("scenario / scaler / seed")
    for name in (
        "requests",
        "errors",
        "in time",
        "p50 s",
        "p95 s",
        "p99 s",
        "$",
        "$/1,000",
        "changes",
    ):
        made.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        made.add_row(
            report.title,
            f"{report.requests:,}",
            f"{report.errors:,}",
            f"{report.attainment:.2%}",
            _number(report.p50_s, 2),
            _number(report.p95_s, 2),
            _number(report.p99_s, 2),
            f"{report.dollars:,.0f}",
            _number(report.dollars_per_1000, 3),
            f"{sum(report.changes.values()):,}",
        )
    return made


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


if __name__ == "__main__":
    main()
