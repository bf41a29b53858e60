"""A panel per pool: throughput and latency over the offered load, with the break point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtest.breaking.result import Result
from loadtest.breaking.trial import Trial
from loadtest.figures import quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
# Of the capacity; beyond, latency only tells how long the trial was.
_SHOWN = 1.35
_CLOSE = 1.2


def plot(result: Result, path: Path) -> None:
    """Write a PNG.

    Args:
        result: at least one pool must have been measured.
        path: the PNG to write.
    """
    # Imported here: measuring does not need it.
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = result.ranking()
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(5.6 * columns, 4.4 * rows + 0.6),
        squeeze=False,
        layout="constrained",
    )
    cells = list(axes.flat)
    for axis, name in zip(cells, names, strict=False):
        _panel(axis, result, name)
    for axis in cells[len(names) :]:
        axis.set_axis_off()
    _legend(cells[0], cells[len(names)] if len(cells) > len(names) else None)
    partial = " - interrupted" if result.partial else ""
    figure.suptitle(
        f"Break points: p{result.load['percentile']:g} within {result.load['slo_ms']:g} ms,"
        f" open-loop Poisson load{partial}",
        fontsize=14,
    )
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _panel(axis: Axes, result: Result, name: str) -> None:
    found, one = result.found[name], result.proposals[name]
    per = 60 / one.replicas
    most = None if one.capacity is None else _SHOWN * one.capacity.value / per
    points = merged([trial for trial in found.trials if most is None or trial.rate <= most])
    offered = [0.0, *(point.offered * per for point in points)]
    served = [0.0, *(point.served * per for point in points)]
    end = max(offered) * 1.05 or 1.0
    axis.plot([0, end], [0, end], color="0.75", lw=1, ls=":")
    axis.plot(offered, served, "o-", color="tab:blue", ms=4)
    if one.capacity is not None:
        axis.axhspan(one.capacity.low, one.capacity.high, color="tab:blue", alpha=0.15)
        axis.axhline(one.capacity.value, color="tab:blue", lw=1, ls="--")
        axis.set_ylim(0, 1.45 * one.capacity.value)
    axis.set_xlim(0, end)
    axis.set_xlabel("offered, pictures a minute and replica")
    axis.tick_params(axis="y", labelcolor="tab:blue")

    right = axis.twinx()
    for percent, style in ((50, "s:"), (95, "^-")):
        seconds = [quantile(point.latencies, percent) or np.nan for point in points]
        right.plot(offered, [found.alone_s, *seconds], style, color="tab:red", ms=4, lw=1)
    slo_s = result.load["slo_ms"] / 1000
    right.axhline(slo_s, color="tab:red", ls="--", lw=1)
    right.set_ylim(0, max(4 * slo_s, 4 * found.alone_s))
    right.tick_params(axis="y", labelcolor="tab:red")
    if one.break_point is not None:
        axis.axvspan(one.break_point.low, one.break_point.high, color="tab:green", alpha=0.15)
        axis.axvline(one.break_point.value, color="tab:green", lw=2)
    axis.set_title(_title(result, name), fontsize=10)
    axis.grid(alpha=0.3)


@dataclass(frozen=True, slots=True)
class Point:
    """Trials of about one rate, taken together; rates in requests a second of the pool."""

    offered: float
    served: float
    latencies: list[float]


def merged(trials: Sequence[Trial]) -> list[Point]:
    """Trials whose rates are close as one, in order of their rates: single ones are short."""
    groups: list[list[Trial]] = []
    for trial in sorted(trials, key=lambda one: one.rate):
        if trial.settled and groups and trial.rate <= _CLOSE * groups[-1][0].rate:
            groups[-1].append(trial)
        elif trial.settled:
            groups.append([trial])
    found = []
    for group in groups:
        seconds = sum(trial.duration_s for trial in group)
        latencies = [one.latency_s for trial in group for one in trial.settled if one.ok]
        found.append(
            Point(
                sum(trial.offered_per_s * trial.duration_s for trial in group) / seconds,
                sum(trial.served_per_s * trial.duration_s for trial in group) / seconds,
                latencies,
            )
        )
    return sorted(found, key=lambda point: point.offered)


def _title(result: Result, name: str) -> str:
    one = result.proposals[name]
    lines = [f"{name} (emulated)" if name in result.emulated else name]
    if one.break_point is not None:
        lines.append(f"breaks at {one.break_point.value:.0f} a minute, by {one.limited_by}")
    if one.capacity is not None:
        cost = "" if one.dollars_per_1000 is None else f", ${one.dollars_per_1000:.3f} per 1,000"
        lines.append(f"capacity {one.capacity.value:.1f} a minute{cost}")
    return "\n".join(lines)


def _legend(axis: Axes, empty: Axes | None) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color="tab:blue", marker="o", ms=4, label="served, pictures a minute"),
        Line2D([], [], color="0.75", ls=":", label="offered"),
        Line2D([], [], color="tab:blue", ls="--", label="capacity"),
        Line2D([], [], color="tab:red", marker="s", ms=4, ls=":", label="p50, seconds (right)"),
        Line2D([], [], color="tab:red", marker="^", ms=4, label="p95, seconds (right)"),
        Line2D([], [], color="tab:red", ls="--", label="objective (right)"),
        Line2D([], [], color="tab:green", lw=2, label="break point"),
        Patch(color="0.8", label="shaded: 95 % bounds"),
    ]
    where = axis if empty is None else empty
    where.legend(handles=handles, loc="center" if empty is not None else "upper left", fontsize=10)
