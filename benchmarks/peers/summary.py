"""Arithmetic over cells: means with spread, percentiles of all turns, ratios, the verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peers.contestants import OURS, PLAIN
from benchmarks.peers.lateness import late
from benchmarks.peers.results import Cell, Results


@dataclass(frozen=True)
class Value:
    """Mean over the turns, and half their range."""

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Value | None:
        """Of nothing there is none."""
        if not values:
            return None
        spread = (max(values) - min(values)) / 2 if math.isfinite(max(values)) else math.inf
        return cls(float(np.mean(values)), spread)

    def text(self, digits: int) -> str:
        """As tables show it."""
        if not math.isfinite(self.mean):
            return "∞"
        return f"{self.mean:.{digits}f} ± {self.spread:.{digits}f}"


def figure(cell: Cell, key: str) -> float:
    """One number of a cell; of one for each request the median, errors being infinitely late."""
    found = cell[key]
    return late(found, len(cell["errors"]), 50)[0] if isinstance(found, list) else float(found)


def value(results: Results, kind: str, server: str, key: str) -> Value | None:
    """One number of a server's cells."""
    return Value.of([figure(cell, key) for cell in results.of(kind, server)])


def percentiles(results: Results, kind: str, server: str) -> tuple[float, float, float] | None:
    """p50, p95 and p99 in milliseconds over the requests of all turns; errors never came."""
    cells = results.of(kind, server)
    latencies = [ms for cell in cells for ms in cell["latencies_ms"]]
    errors = sum(len(cell["errors"]) for cell in cells)
    if not latencies and not errors:
        return None
    p50, p95, p99 = late(latencies, errors, 50, 95, 99)
    return p50, p95, p99


@dataclass(frozen=True)
class Verdict:
    """A goal and whether it was met.

    Attributes:
        goal: what was asked for.
        measured: the figure; ``None``: not measured; no number: the others' is infinite.
        limit: what it is held against.
        at_least: whether more is better.
    """

    goal: str
    measured: float | None
    limit: float
    at_least: bool

    @property
    def word(self) -> str:
        """``met``, ``missed``, ``not decided`` or ``not measured``."""
        if self.measured is None:
            return "not measured"
        if math.isnan(self.measured):
            return "not decided"
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "met" if met else "missed"


def ratio(above: float | None, below: float | None) -> float | None:
    """``above ÷ below`` where both were measured; no number where ``below`` is an error's."""
    if above is None or not below:
        return None
    # What fails is no yardstick: 0 would be a win over it.
    return above / below if math.isfinite(below) else math.nan


def static(results: Results) -> list[str]:
    """Who batches statically."""
    return [s for s in results.servers("mixed") if not s.startswith(OURS) and s != PLAIN]


def best(
    results: Results, kind: str, key: str, servers: Sequence[str], least: bool
) -> float | None:
    """The best mean among servers."""
    found = [value(results, kind, server, key) for server in servers]
    means = [one.mean for one in found if one is not None]
    if not means:
        return None
    return min(means) if least else max(means)


def best_percentile(results: Results, kind: str, which: int) -> float | None:
    """The least latency of any static batching at a load."""
    found = [percentiles(results, kind, server) for server in static(results)]
    values = [one[which] for one in found if one is not None]
    return min(values) if values else None


def verdicts(results: Results, ours: str = OURS) -> list[Verdict]:
    """Every goal, against the best of the others in the same run."""

    def mean(kind: str, key: str, server: str = ours) -> float | None:
        found = value(results, kind, server, key)
        return None if found is None else found.mean

    def latency(load: int, which: int) -> float | None:
        mine = percentiles(results, f"load {load}", ours)
        return ratio(mine[which] if mine else None, best_percentile(results, f"load {load}", which))

    others = [s for s in results.servers("alone") if not s.startswith(OURS)]
    rows = []
    for kind, steps in (("equal", "equal steps"), ("mixed", "mixed steps")):
        batching = best(results, kind, "rate", static(results), least=False)
        above = ratio(mean(kind, "rate"), batching)
        rows.append(
            Verdict(f"saturated, {steps}: images/s ÷ best static batching", above, 1.0, True)
        )
        above = ratio(mean(kind, "rate"), mean(kind, "rate", PLAIN))
        rows.append(Verdict(f"saturated, {steps}: images/s ÷ one at a time", above, 2.0, True))
    for load, p50, p95 in ((80, 0.5, 0.65), (95, 1.0, 1.0)):
        for which, (name, limit) in enumerate((("p50", p50), ("p95", p95))):
            goal = f"{load} % load, mixed steps: {name} ÷ best static batching's"
            rows.append(Verdict(goal, latency(load, which), limit, False))
    leanest = best(results, "alone", "beyond_ms", others, least=True)
    beyond = ratio(mean("alone", "beyond_ms"), leanest)
    rows.append(Verdict("overhead per request ÷ the leanest other's", beyond, 1.0, False))
    least = best(results, "start", "pss_mb", others, least=True)
    rows.append(
        Verdict("memory ÷ the leanest other's", ratio(mean("start", "pss_mb"), least), 1.0, False)
    )
    return rows
