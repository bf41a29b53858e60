"""What each process of a running service holds: memory, file descriptors, threads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import httpx
import psutil

# What a process is called here, by a part of its command line; the first that fits.
NAMES = {
    "ServeReplica:imagine:Ingress": "ingress",
    "ServeReplica:imagine:cpu": "cpu replica",
    "ProxyActor": "Serve's proxy",
    "ServeController": "Serve's controller",
    "raylet/raylet": "Ray: raylet",
    "gcs_server": "Ray: GCS",
    "ray::RuntimeEnvAgent": "Ray: runtime environment agent",
    "ray::DashboardAgent": "Ray: dashboard agent",
    "ray-dashboard-": "Ray: the dashboard's modules",
    "dashboard/dashboard.py": "Ray: dashboard",
    "log_monitor.py": "Ray: log monitor",
    "monitor.py": "Ray: autoscaler monitor",
    "ray::IDLE": "Ray: idle workers",
    "from multiprocessing.": "Ray: dashboard's helpers",
    "serve run": "`serve run` itself",
}
_DASHBOARD = re.compile(r"dashboard/dashboard\.py .*--port=(\d+)")


@dataclass(frozen=True, slots=True)
class Size:
    """What a process holds; those of one name are added up.

    Attributes:
        resident: MB of memory, shared with others or not.
        unique: MB that no other process shares.
        files: open file descriptors.
        threads: threads.
    """

    resident: float = 0.0
    unique: float = 0.0
    files: int = 0
    threads: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(
            self.resident + other.resident,
            self.unique + other.unique,
            self.files + other.files,
            self.threads + other.threads,
        )


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def sizes(processes: Iterable[psutil.Process]) -> dict[str, Size]:
    """Name -> what its processes hold."""
    found: dict[str, Size] = {}
    for process in processes:
        try:
            line, memory = " ".join(process.cmdline()), process.memory_full_info()
            size = Size(
                memory.rss / 2**20, memory.uss / 2**20, process.num_fds(), process.num_threads()
            )
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # gone since it was listed
        name = next((name for part, name in NAMES.items() if part in line), line[:60])
        found[name] = found.get(name, Size()) + size
    return found


def ray_objects(processes: Iterable[psutil.Process]) -> int:
    """Objects that Ray keeps in the cluster of these processes, asked of its dashboard.

    Raises:
        LookupError: there is no dashboard among them.
        httpx.HTTPError: it does not answer.
    """
    port = next(iter(_dashboard_ports(processes)), None)
    if port is None:
        raise LookupError("no dashboard among the processes")
    url = f"http://127.0.0.1:{port}/api/v0/objects"
    answer = httpx.get(url, params={"limit": 10_000, "timeout": 30}, timeout=40)
    answer.raise_for_status()
    return int(answer.json()["data"]["result"]["total"])


def _dashboard_ports(processes: Iterable[psutil.Process]) -> Iterator[str]:
    for process in processes:
        try:
            found = _DASHBOARD.search(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if found:
            yield found.group(1)
