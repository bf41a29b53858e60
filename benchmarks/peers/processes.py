"""A server as processes: started, its memory counted, and gone again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.contestants import PORT, ROOT, Contestant
from benchmarks.peers.load import Client
from loadtest.launching import check_port, end

START_S = 240.0
# HAProxy takes half a minute to let go; what is left after this is killed.
STOP_S = 12.0
URL = f"http://127.0.0.1:{PORT}"
# For all alike. OpenMP threads that spin while they wait make steps many times slower on busy
# cores. Ray gives its workers the lowest priority but four, which a server of one process does not.
COMMON = {
    "PYTHONPATH": ".",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "BENTOML_DO_NOT_TRACK": "True",
    "HF_HUB_OFFLINE": "1",
}


class StartError(Exception):
    """A server did not answer; says what it wrote last."""


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        process: its first process.
        cold_s: seconds from its start to the first picture.
    """

    process: psutil.Process
    cold_s: float

    def memory_mb(self) -> tuple[float, float]:
        """Of all its processes: shared pages counted in part (PSS), and in full (RSS)."""
        pss = rss = 0.0
        for one in family(self.process):
            try:
                pss += one.memory_full_info().pss / 2**20
                rss += one.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                continue  # it ended since it was listed
        return pss, rss

    def count(self) -> int:
        """Processes."""
        return len(family(self.process))

    def busy_cores(self, seconds: float) -> float:
        """Cores that all its processes together keep busy, over so many seconds from now."""

        def used() -> float:
            total = 0.0
            for one in family(self.process):
                try:
                    times = one.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                total += times.user + times.system
            return total

        begin = used()
        time.sleep(seconds)
        return (used() - begin) / seconds

    def memory_by_kind(self) -> dict[str, float]:
        """PSS in MB by what a process is."""
        kinds: dict[str, float] = {}
        for one in family(self.process):
            try:
                kind = kind_of(one.cmdline())
                kinds[kind] = kinds.get(kind, 0.0) + one.memory_full_info().pss / 2**20
            except psutil.NoSuchProcess:
                continue
        return kinds


# In this order: the first that occurs in a command line names the process.
KINDS = (
    ("ray::ServeReplica:imagine:Ingress", "ingress"),
    ("ray::ServeReplica:plain:", "replica"),
    ("ray::ServeReplica:", "replica"),
    ("ray::ProxyActor", "Serve's proxy"),
    ("ray::HAProxyManager", "HAProxy and its manager"),
    ("haproxy", "HAProxy and its manager"),
    ("ray::ServeController", "Serve's controller"),
    ("ray::", "other Ray workers and agents"),
    ("gcs_server", "GCS"),
    ("raylet/raylet", "raylet"),
    ("dashboard", "dashboard and its agents"),
    ("runtime_env", "dashboard and its agents"),
    ("log_monitor", "log and autoscaler monitors"),
    ("monitor.py", "log and autoscaler monitors"),
    ("serve", "the command itself"),
)


def kind_of(command: list[str]) -> str:
    """What a process is, from its command line."""
    line = " ".join(command)
    return next((kind for part, kind in KINDS if part in line), "other")


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that descend from it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def running(contestant: Contestant, log: Path, patience_s: float = START_S) -> Iterator[Running]:
    """Start it and wait for the first picture; afterwards all its processes are gone.

    Raises:
        PortTaken: another program answers where it would.
        StartError: it does not answer.
    """
    check_port(PORT)
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            contestant.command,
            cwd=ROOT,
            env=os.environ | COMMON | contestant.environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    first = psutil.Process(process.pid)
    try:
        try:
            asyncio.run(_first_picture(process, patience_s))
        except (TimeoutError, StartError) as error:
            said = log.read_text("utf-8", errors="replace").strip().splitlines()[-3:]
            raise StartError(
                f"{contestant.name}: {error or 'no picture'}: {' '.join(said)}"
            ) from error
        yield Running(first, time.perf_counter() - begin)
    finally:
        # HAProxy outlives Ray, and whatever is left would answer for the next one.
        end(process, STOP_S)


async def _first_picture(process: subprocess.Popen[bytes], patience_s: float) -> None:
    waiting = asyncio.create_task(Client(URL).first_picture(patience_s))
    while not waiting.done():
        if process.poll() is not None:
            waiting.cancel()
            raise StartError(f"ended with status {process.returncode}")
        await asyncio.wait([waiting], timeout=0.2)
    await waiting
