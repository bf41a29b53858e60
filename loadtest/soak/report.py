"""A soak as JSON and as a picture of its curves."""

from __future__ import annotations

import json
from pathlib import Path

from loadtest.soak.record import Record

# The processes with the most memory; more curves cannot be told apart.
_CURVES = 8


def write(record: Record, folder: Path) -> list[Path]:
    """Write ``soak.json`` and, where there is something to draw, ``soak.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "soak.json"
    data.write_text(json.dumps(record.as_json(), indent=1) + "\n", encoding="utf-8")
    if not record.samples:
        return [data]
    return [data, draw(record, folder / "soak.png")]


def draw(record: Record, path: Path) -> Path:
    """Memory, descriptors, threads, objects and latency over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    samples = record.samples
    last = samples[-1].processes
    names = sorted(last, key=lambda name: last[name].resident, reverse=True)[:_CURVES]
    figure, axes = plt.subplots(5, 1, figsize=(9, 15), sharex=True, layout="constrained")
    for axis, (what, title) in zip(
        axes,
        {
            "resident": "resident memory, MB",
            "files": "file descriptors",
            "threads": "threads",
        }.items(),
        strict=False,
    ):
        for name in names:
            points = [
                (s.at / 60, getattr(s.processes[name], what))
                for s in samples
                if name in s.processes
            ]
            axis.plot(*zip(*points, strict=True), label=name)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize="small", ncols=2)
    objects = [(s.at / 60, s.objects) for s in samples if s.objects is not None]
    if objects:
        axes[3].plot(*zip(*objects, strict=True))
    axes[3].set_ylabel("Ray objects")
    windows = record.windows()
    for what in ("p50_s", "p95_s"):
        axes[4].plot(
            [one["until_s"] / 60 for one in windows], [one[what] for one in windows], label=what
        )
    axes[4].set_ylabel("plain picture, s")
    axes[4].set_ylim(bottom=0)
    axes[4].set_xlabel(f"minutes ({record.requests} requests)")
    axes[4].legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path
