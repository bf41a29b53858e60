"""Start of a whole replica with and without an artifact, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_cases import Case
from benchmarks.gpu_models import build
from benchmarks.startup import ROOT, start

Results = dict[str, Any]


def measure(case: Case, device: str, dtype: torch.dtype, slots: int, until: float) -> Results:
    """Save the model, compile and publish it by the command line, start with it and without.

    Without, the replica compiles as its settings say, with an empty cache; on a CPU not at all.

    Args:
        case: model and size.
        device: ``cuda`` or ``cpu``.
        dtype: of the weights.
        slots: guided pictures of the one batch that is compiled.
        until: monotonic seconds after which nothing more is begun.
    """
    name = str(dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory(prefix="gpu-start-") as made:
        model, registry = Path(made) / "model", Path(made) / "registry"
        save(case, dtype, model)
        begin = time.perf_counter()
        run(compile_command(case, device, name, slots, model, registry), until)
        found: Results = {"export_s": time.perf_counter() - begin}
        options = {
            "pool": "benchmark",
            "accelerator": device,
            "framework": device,
            "model_source": str(model),
            "dtype": name,
            "max_rows": 2 * slots,
        }
        return found | compare(options, registry, Path(made), until)


def save(case: Case, dtype: torch.dtype, folder: Path) -> None:
    """The case's model in diffusers layout, its pictures as large as the case's."""
    build(case.model, torch.device("cpu"), dtype).save_pretrained(str(folder))
    size = {"width": case.pixels, "height": case.pixels}
    (folder / "serving.json").write_text(json.dumps(size), encoding="utf-8")


def compile_command(
    case: Case, device: str, dtype: str, slots: int, model: Path, registry: Path
) -> list[str]:
    """As the documentation gives it."""
    return [
        *("--model", str(model), "--accelerator", device, "--dtype", dtype),
        *("--height", str(case.pixels), "--width", str(case.pixels)),
        *("--batch", str(2 * slots), "--publish", str(registry)),
    ]


def run(arguments: list[str], until: float) -> None:
    """``python -m compile``, within the time that is left.

    Raises:
        RuntimeError: it failed; says why.
        TimeoutError: no time left.
    """
    command = [sys.executable, "-m", "compile", *arguments]
    left = max(30.0, until - time.monotonic())
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        raise TimeoutError("no time left to compile the artifact") from None
    if done.returncode:
        raise RuntimeError(f"compile: {done.stderr.strip()[-300:]}")


def compare(options: Results, registry: Path, scratch: Path, until: float) -> Results:
    """Seconds until each replica is ready, and their stages.

    Args:
        options: of the replica, without an artifact.
        registry: holds the artifact.
        scratch: for compile caches, one for each start.
        until: as of ``measure``.
    """
    found: Results = {}
    for name, more in (
        ("with artifact", {"artifact": {"source": str(registry)}}),
        ("without", {}),
    ):
        if time.monotonic() > until:
            found[name] = {"error": "no time left"}
            continue
        answer = start(options | more, scratch / name.replace(" ", "-"))
        graphs = "artifact" if answer["graphs"].startswith("artifact") else answer["graphs"]
        found[name] = {"ready_s": answer["wall_s"], "graphs": graphs} | answer["seconds"]
    return found
