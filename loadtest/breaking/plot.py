"""A panel per pool: throughput and latency over the offered load, with the break point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.breaking.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3


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
    trials = sorted(found.trials, key=lambda trial: trial.rate)
    offered = [trial.rate * per for trial in trials]
    served = [trial.served_per_s * per for trial in trials]
    axis.plot([0, *offered], [0, *offered], color="0.75", lw=1, ls=":", label="offered")
    axis.plot(offered, served, "o-", color="tab:blue", ms=4, label="pictures a minute")
    if one.capacity is not None:
        axis.axhspan(one.capacity.low, one.capacity.high, color="tab:blue", alpha=0.15)
        axis.axhline(one.capacity.value, color="tab:blue", lw=1, ls="--", label="capacity")
        axis.set_ylim(0, 1.45 * one.capacity.value)
    axis.set_xlim(0, max(offered, default=1.0) * 1.03)
    axis.set_xlabel("offered, pictures a minute and replica")
    axis.tick_params(axis="y", labelcolor="tab:blue")

    right = axis.twinx()
    for percent, style in ((50, "s:"), (95, "^-")):
        seconds = [trial.latency_s(percent) for trial in trials]
        told = [(x, y) for x, y in zip(offered, seconds, strict=True) if y is not None]
        right.plot(*zip(*told, strict=True), style, color="tab:red", ms=4, lw=1)
    slo_s = result.load["slo_ms"] / 1000
    right.axhline(slo_s, color="tab:red", ls="--", lw=1)
    right.set_ylim(0, max(4 * slo_s, 4 * found.alone_s))
    right.tick_params(axis="y", labelcolor="tab:red")
    if one.break_point is not None:
        axis.axvspan(one.break_point.low, one.break_point.high, color="tab:green", alpha=0.15)
        axis.axvline(one.break_point.value, color="tab:green", lw=2)
    axis.set_title(_title(result, name), fontsize=10)
    axis.grid(alpha=0.3)


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
