"""Start of a replica with a published artifact against torch.compile from scratch.

Each start is a process of its own with empty compile caches, but for the row that says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.hardware import cpu_name
from compile.cli import main as compile_main

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("import", "download", "load", "artifact", "compile", "warm_up")

START = """
import json, logging, sys
logging.basicConfig(level=logging.ERROR)
from deployments.options import ReplicaOptions
from deployments.replica import PoolReplica
replica = PoolReplica(ReplicaOptions.model_validate_json(sys.argv[1]))
print(json.dumps({"seconds": replica.timeline.seconds, "graphs": replica.graphs,
                  "step_ms": replica.step_costs}))
replica.service.stop()
"""


def start(options: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Stages and step costs of one start; ``wall_s`` and ``cpu_s`` of the whole process."""
    begin, cpu = time.monotonic(), cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-c", START, json.dumps(options)],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer | {"wall_s": time.monotonic() - begin, "cpu_s": cpu_seconds() - cpu}


def cpu_seconds() -> float:
    """Of all processes that this one has waited for, compilers among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(batch: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Each way's start."""
    registry = folder / "registry"
    arguments = ["--model", "embedded", "--accelerator", "cpu", "--height", "64", "--width", "64"]
    arguments += ["--batch", batch, "--cache-bundle", "--publish", str(registry)]
    if compile_main(arguments):
        sys.exit(1)
    base = {
        "pool": "cpu",
        "accelerator": "cpu",
        "framework": "cpu",
        "model_source": "embedded",
        "threads": 1,
        "max_rows": int(batch.split(",")[-1]),
    }
    artifact = {"source": str(registry)}
    nowhere = {"source": str(folder / "none"), "fallback": "jit"}
    ways: list[tuple[str, dict[str, Any], Path]] = [
        ("eager", base, folder / "a"),
        ("artifact", base | {"artifact": artifact}, folder / "b"),
        ("torch.compile", base | {"artifact": nowhere}, folder / "c"),
        (
            "torch.compile, its cache in the artifact",
            base | {"artifact": artifact | {"load": "cache"}},
            folder / "d",
        ),
        ("torch.compile, its cache on the disk", base | {"artifact": nowhere}, folder / "c"),
    ]
    return {name: start(options, cache) for name, options, cache in track(ways, "Starts")}


def report(batch: str, starts: Mapping[str, Mapping[str, Any]]) -> str:
    """The table."""
    best = starts["artifact"]
    largest = batch.split(",")[-1]
    lines = [
        "# Start-up benchmark",
        "",
        "`python -m benchmarks.startup --out benchmarks/startup.md`",
        "",
        f"{date.today().isoformat()}, {os.cpu_count()} cores of {cpu_name()}, embedded model,"
        f" UNet graphs of {batch.replace(',', ' and ')} rows, one thread in the replica."
        " Seconds of the clock; CPU seconds, which a"
        " busy machine changes less, are those of the whole process and its compilers."
        f" Load of the machine at the end: {os.getloadavg()[0]:.1f}.",
        "",
        f"| start | {' | '.join(stage.replace('_', '-') for stage in STAGES)} | ready after s"
        f" | against artifact | CPU s | against artifact | step of {largest} rows, ms |",
        f"|---|{'---|' * len(STAGES)}---|---|---|---|---|",
    ]
    for name, one in starts.items():
        seconds = [one["seconds"].get(stage) for stage in STAGES]
        cells = ["" if value is None else f"{value:.1f}" for value in seconds]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {one['wall_s']:.1f}"
            f" | {one['wall_s'] / best['wall_s']:.1f}× | {one['cpu_s']:.0f}"
            f" | {one['cpu_s'] / best['cpu_s']:.1f}× | {one['step_ms'][largest]:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", default="2", help="each more takes minutes")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = report(arguments.batch, run(arguments.batch, Path(folder)))
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
