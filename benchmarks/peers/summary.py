"""Arithmetic over cells: means with spread, percentiles of all turns, ratios."""

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


def figure(cell: Cell, key: str, percent: float = 50) -> float:
    """One number of a cell; of one for each request a percentile, errors being infinitely late."""
    found = cell[key]
    return late(found, len(cell["errors"]), percent)[0] if isinstance(found, list) else float(found)


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
