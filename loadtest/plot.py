"""A load's report as a picture: rates, latency and shares over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtest.figures import quantile
from loadtest.outcome import Outcome
from loadtest.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WINDOWS = 40


def plot(report: Report, outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a PNG.

    Args:
        report: of the load.
        outcomes: of every request sent.
        path: the PNG to write.
    """
    # Imported here: the load does not need it.
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    edges = np.linspace(0.0, max(report.seconds, 1e-3), _WINDOWS + 1)
    figure, (rates, latency, shares) = pyplot.subplots(
        3, 1, figsize=(9, 10), sharex=True, layout="constrained"
    )
    _rates(rates, outcomes, edges)
    _latency(latency, outcomes, edges)
    _shares(shares, report, outcomes, edges)
    shares.set_xlabel("seconds")
    for axis in (rates, latency, shares):
        axis.grid(alpha=0.3)
        axis.set_xlim(0, edges[-1])
    partial = "PARTIAL, " if report.partial else ""
    emulated = ", emulated" if any(pool.emulated for pool in report.pools.values()) else ""
    figure.suptitle(
        f"{partial}{report.load['shape']}: {report.pictures} pictures, {report.failed} failed"
        f"{emulated}"
    )
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _rates(axis: Axes, outcomes: Sequence[Outcome], edges: np.ndarray) -> None:
    width = edges[1] - edges[0]
    middle = edges[:-1] + width / 2

    def per_s(times: list[float]) -> np.ndarray:
        counted: np.ndarray = np.histogram(times, edges)[0] / width
        return counted

    axis.plot(middle, per_s([one.due_s for one in outcomes]), color="0.4", label="offered")
    axis.plot(
        middle, per_s([one.done_s for one in outcomes if one.ok]), color="tab:blue", label="served"
    )
    failed = [one.done_s for one in outcomes if not one.ok and not one.interrupted]
    if failed:
        axis.plot(middle, per_s(failed), color="tab:red", label="errors")
    axis.set_ylim(bottom=0)
    axis.set_ylabel("requests a second")
    axis.legend(loc="upper right")


def _latency(axis: Axes, outcomes: Sequence[Outcome], edges: np.ndarray) -> None:
    answered = [one for one in outcomes if one.ok]
    window = np.digitize([one.due_s for one in answered], edges) - 1
    middle = (edges[:-1] + edges[1:]) / 2
    for percent, color in ((50, "tab:blue"), (95, "tab:orange")):
        values = []
        for index in range(len(middle)):
            inside = [one.latency_s for one, w in zip(answered, window, strict=True) if w == index]
            value = quantile(inside, percent)
            values.append(np.nan if value is None else value)
        axis.plot(middle, values, ".-", color=color, label=f"p{percent}, by when it was due")
    axis.set_ylim(bottom=0)
    axis.set_ylabel("latency in seconds, corrected")
    axis.legend(loc="upper right")


def _shares(axis: Axes, report: Report, outcomes: Sequence[Outcome], edges: np.ndarray) -> None:
    names = [name for name, pool in report.pools.items() if pool.pictures]
    counts = np.array(
        [
            np.histogram([one.done_s for one in outcomes if one.answer.pool == name], edges)[0]
            for name in names
        ]
    )
    if names:
        # So far, not per window: single pictures would make it flicker.
        so_far = counts.cumsum(axis=1)
        total = np.maximum(so_far.sum(axis=0), 1)
        labels = [f"{name} {report.pools[name].share:.0%}" for name in names]
        axis.stackplot((edges[:-1] + edges[1:]) / 2, so_far / total, labels=labels)
        axis.legend(loc="upper right")
    axis.set_ylim(0, 1)
    axis.set_ylabel("share of all pictures so far")
