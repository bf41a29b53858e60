"""Reports as a picture: demand, replicas, latency and cost over the day."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtest.simulator.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More pools than this are drawn without names.
_NAMED = 12


def plot(reports: Sequence[Report], path: Path) -> None:
    """Write a PNG with a column per report; rows have one scale, so that columns compare.

    Args:
        reports: at least one, of like scenarios.
        path: the PNG to write.
    """
    # Imported here: simulating does not need it.
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        4,
        len(reports),
        figsize=(6.5 * len(reports) + 1, 11),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, report in enumerate(reports):
        _column(list(axes[:, column]), report)
    for row, label in enumerate(
        ("requests per second", "ready replicas", "p95 in seconds", "US dollars per hour")
    ):
        axes[row, 0].set_ylabel(label)
    figure.suptitle(", ".join(dict.fromkeys(report.scenario for report in reports)), fontsize=15)
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def _column(axes: Sequence[Axes], report: Report) -> None:
    demand, replicas, latency, cost = axes
    hours = [sample.at_s / 3600 for sample in report.samples]
    per_1000 = report.dollars_per_1000
    demand.set_title(
        f"{report.scaler}, seed {report.seed}\n{report.attainment:.2%} within {report.slo_s:g} s, "
        f"{report.errors:,} errors, "
        + ("no pictures" if per_1000 is None else f"${per_1000:.3f} per 1,000"),
        fontsize=11,
    )
    demand.plot(hours, [sample.pictures_per_s for sample in report.samples], lw=0.8, label="demand")
    demand.legend(loc="upper right")

    pools = list(report.shares)
    stacks = [[sample.ready[pool] for sample in report.samples] for pool in pools]
    if report.samples:
        replicas.stackplot(hours, *stacks, labels=pools if len(pools) <= _NAMED else ())
    if len(pools) <= _NAMED:
        replicas.legend(loc="upper right", fontsize=8)

    seen = [np.nan if sample.p95_s is None else sample.p95_s for sample in report.samples]
    latency.plot(hours, seen, lw=0.8, label="p95 of each minute")
    latency.axhline(report.slo_s, color="tab:red", ls="--", lw=1, label="objective")
    latency.set_yscale("log")
    latency.legend(loc="best")

    cost.plot(
        hours, [s.dollars_per_hour for s in report.samples], lw=1, color="tab:green", label="cost"
    )
    cost.legend(loc="upper right")
    cost.set_xlabel("hours")
    for one in axes:
        one.grid(alpha=0.3)
