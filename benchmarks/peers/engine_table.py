"""Goals that a table of benchmarks/engine.md misses: the same comparison without HTTP."""

from __future__ import annotations

import re

from benchmarks.peers.verdicts import LATENCIES, SATURATED

OURS, STATIC = "step-level engine", "static batching"
LONGEST = 20  # steps of its longest requests
_FULL = re.compile(r"^Step cost per row.* (\d+): ([\d.]+);", re.MULTILINE)
_SCHEDULER_MS = 0.15  # a step of a request's own scheduler (ARCHITECTURE.md: 0.1 to 0.2)


def engine_misses(page: str) -> list[str]:
    """A line for each, with the reason."""
    lines = []
    costs = list(_FULL.finditer(page))
    ends = [*(cost.start() for cost in costs[1:]), len(page)]
    for number, (cost, end) in enumerate(zip(costs, ends, strict=True), start=1):
        rows, per_row = int(cost[1]), float(cost[2])
        static: list[float] = []
        for line in page[cost.end() : end].splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) != 10 or cells[2] not in (OURS, STATIC):
                continue
            rate, p50, p95 = (float(cells[place]) for place in (3, 5, 6))
            if cells[2] == STATIC:
                static = [rate, p50, p95]
                continue
            for name, measured, limit in _missed(cells[0], cells[1], [rate, p50, p95], static):
                lines.append(
                    f"* Engine alone, table {number}, {cells[0]}, {cells[1]}: {name} ÷ static"
                    f" batching {measured:.2f}, goal {limit:g}. {_reason(name, rows, per_row, p95)}"
                )
    return lines


def _missed(
    mix: str, load: str, ours: list[float], static: list[float]
) -> list[tuple[str, float, float]]:
    rate, p50, p95 = (mine / theirs for mine, theirs in zip(ours, static, strict=True))
    if load == "saturated":
        return [("images/s", rate, SATURATED)] if rate < SATURATED else []
    limits = LATENCIES.get(int(load.rstrip("%"))) if mix == "mixed steps" else None
    if limits is None:
        return []
    figures = (("p50", p50, limits[0]), ("p95", p95, limits[1]))
    return [one for one in figures if one[1] > one[2]]


def _reason(name: str, rows: int, per_row: float, p95: float) -> str:
    step_ms = rows * per_row
    if name == "images/s":
        return (
            "With a queue that is never empty static batching fills nearly every batch, and joining"
            " late gains little. What is left is what the engine does more: every request has a"
            f" scheduler of its own, some {_SCHEDULER_MS} ms a step, where a pipeline call has one"
            f" for its batch; {rows // 2} of them are {rows // 2 * _SCHEDULER_MS / step_ms:.0%} of"
            f" a full step of {step_ms:.0f} ms."
        )
    if name == "p95":
        return (
            f"The slowest are requests of {LONGEST} steps, which take"
            f" {LONGEST * step_ms / 1000:.1f} s in full batches without any waiting, of the"
            f" {p95:.1f} s measured: no batching shortens those."
        )
    return "The load leaves full batches no room for newcomers: they wait as they do elsewhere."
