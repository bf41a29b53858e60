"""Placement on cores, as far as a process without cores can keep to it."""

from __future__ import annotations

import os
from typing import Any

# Graph placements asked for, in order: (first core, number of cores).
placements: list[tuple[int, int]] = []


def visible_cores() -> int:
    """How many cores the runtime would give this process: unless told, all of an inf2.xlarge."""
    listed = os.environ.get("NEURON_RT_VISIBLE_CORES", "0-1")
    count = 0
    for part in listed.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def set_neuron_cores(trace: Any, start_nc: int = -1, nc_count: int = -1) -> None:
    """Cores are counted from 0 within those visible to the process."""
    if start_nc + nc_count > visible_cores():
        raise RuntimeError(f"core {start_nc} asked for, {visible_cores()} visible")
    placements.append((start_nc, nc_count))
