"""Latency against load, ours and the others."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.peers.contestants import OURS, PLAIN
from benchmarks.peers.measure import LOADS
from benchmarks.peers.results import Results
from benchmarks.peers.summary import percentiles


def draw(results: Results, path: Path) -> None:
    """Write the picture, if loads were measured: median and p95 by share of capacity."""
    servers = results.servers(f"load {LOADS[0]}")
    if not servers:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True)
    for axis, which, title in zip(axes, (0, 1), ("median", "95th percentile"), strict=True):
        for server in servers:
            if server == PLAIN:
                continue  # beyond its capacity from the second load on
            found = [(load, percentiles(results, f"load {load}", server)) for load in LOADS]
            points = [
                (load, values[which] / 1000)
                for load, values in found
                if values is not None and math.isfinite(values[which])
            ]
            if not points:
                continue  # too many errors: infinitely late
            ours = server.startswith(OURS)
            axis.plot(
                *zip(*points, strict=True),
                marker="o",
                linewidth=2.5 if ours else 1.2,
                linestyle="-" if ours else "--",
                label=server,
            )
        axis.set(title=f"Latency, {title}", xlabel="load, % of the best static batching's capacity")
        axis.set(ylabel="seconds", ylim=(0, None), xticks=LOADS)
        axis.grid(alpha=0.3)
    if axes[0].lines:
        axes[0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
