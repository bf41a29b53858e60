"""The GPU benchmark's start with an artifact and without, of a replica on the CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import gpu_start
from benchmarks.gpu_report import render


def test_starts_with_an_artifact_and_without(registry: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "pool": "benchmark",
        "accelerator": "cpu",
        "framework": "cpu",
        "model_source": "embedded",
        "max_rows": 4,
        "threads": 1,
    }
    late = gpu_start.compare(options, registry, tmp_path, time.monotonic() - 1)
    assert late == {name: {"error": "no time left"} for name in ("with artifact", "without")}
    assert "| artifact: without | error: no time left |" in render({"tiny-16": {"artifact": late}})
    found = gpu_start.compare(options, registry, tmp_path, time.monotonic() + 300)
    assert {name: one["graphs"] for name, one in found.items()} == {
        "with artifact": "artifact",
        "without": "the backend's own",
    }
    assert "artifact" in found["with artifact"].keys() - found["without"].keys()
    assert all(one["ready_s"] > one["load"] for one in found.values())
