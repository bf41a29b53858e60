"""What the processes of a cluster export to Prometheus."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.chaos.stand import Stand

# Long enough for a sampler's period, Ray's export and a scrape, several times.
QUIET_S = 6.0


def exported(stand: Stand, name: str) -> list[float]:
    """A series' values in all processes; what has died is still exported."""
    folder = Path(stand.cluster.head_node.get_session_dir_path())
    found = json.loads((folder.parent / "prom_metrics_service_discovery.json").read_text("utf-8"))
    values: list[float] = []
    for target in found[0]["targets"]:
        try:
            text = httpx.get(f"http://{target}/metrics", timeout=10).text
        except httpx.TransportError:
            continue  # a node that is gone
        values += map(float, re.findall(rf"^ray_{name}\{{.*\}} ([\d.e+]+)$", text, re.MULTILINE))
    return values


def settled(read: Callable[[], float]) -> float:
    """What is read once it has stayed the same for ``QUIET_S``."""
    value, since = read(), time.monotonic()
    until = since + 120
    while time.monotonic() < since + QUIET_S:
        assert time.monotonic() < until, f"it goes on changing: {value:g}"
        time.sleep(0.5)
        if (now := read()) != value:
            value, since = now, time.monotonic()
    return value
