"""``serve run serve_config.yaml`` as a person runs it: a long run's memory, and Ctrl-C."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from loadtest.soak import mix
from loadtest.soak.processes import Size, ray_objects, sizes
from tests.e2e.conftest import ROOT, free_port, shipped_config
from tests.e2e.test_serve import start_picture

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REQUESTS = 2000
WARM = 800
INGRESS_LIMIT_MB = 300
# After WARM requests, over four stretches of 300: a leak grows in each, by 4 MB if it is 14 kB a
# request; an allocator that takes another arena grows in one or two. A replica without a leak was
# seen to change by -2 to +6 MB.
STRETCHES = 4
STRETCH_LIMIT_MB = 4
GROWTH_LIMIT_MB = 20
STOP_WITHIN_S = 10
# Descriptors and threads come and go with connections and thread pools; a leak of one in a hundred
# requests would be twelve after WARM. Objects: one that is kept for each request would be 1,200.
FILES_LIMIT, THREADS_LIMIT, OBJECTS_LIMIT = 12, 8, 50
SERVING = ("ingress", "cpu replica", "Serve's proxy", "Serve's controller")
# Medians of plain pictures, the quickest stretch of either half: other programs' load is not ours.
SLOWER_LIMIT = 2


class Service:
    """A ``serve run`` process and where it answers."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def family(self) -> list[psutil.Process]:
        """All that the process has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def sizes(self) -> dict[str, Size]:
        """Process -> what it holds."""
        return sizes([psutil.Process(self.process.pid), *self.family()])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    port = free_port()
    path, log = tmp_path / "serve_config.yaml", tmp_path / "serve.log"
    path.write_text(yaml.safe_dump(shipped_config(port)))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("serve")), "run", str(path)],
            cwd=ROOT,
            # Else a token that this account has for other clusters guards the dashboard.
            env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = Service(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_ready(running)
        yield running
    finally:
        family = running.family() if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            for left in family:
                if left.is_running():
                    left.kill()


def wait_ready(service: Service) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert service.process.poll() is None, service.log.read_text()
        try:
            if httpx.get(f"{service.url}/readiness", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    pytest.fail(f"not ready:\n{service.log.read_text()}")


def mixed_request(client: httpx.Client, index: int, picture: str) -> float | None:
    """One of several kinds of request, and a check of its answer; seconds of a plain one."""
    one, began = mix.kind(index, picture), time.monotonic()
    status = mix.send(client, one)
    took_s = time.monotonic() - began
    expected = mix.LEFT if one.expected is None else str(one.expected)
    assert status == expected, one.body
    return took_s if one.plain else None


def test_nothing_grows_or_slows_and_ctrl_c_leaves_nothing(service: Service) -> None:
    seen = {0: service.sizes()}
    objects: list[int] = []
    medians: list[float] = []
    picture = start_picture()
    with (
        httpx.Client(base_url=service.url, timeout=120) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        marks = range(WARM, REQUESTS + 1, (REQUESTS - WARM) // STRETCHES)
        for begin, end in itertools.pairwise([0, *marks]):
            work = pool.map(lambda index: mixed_request(client, index, picture), range(begin, end))
            medians.append(statistics.median(took for took in work if took is not None))
            objects.append(ray_objects(service.family()))
            seen[end] = service.sizes()
    show(seen)
    print(f"Ray objects {objects}; median of a plain picture, s: {[round(s, 3) for s in medians]}")
    assert seen[REQUESTS]["ingress"].resident < INGRESS_LIMIT_MB
    for name in seen[REQUESTS]:
        # Not the unique size: what is shared changes with the processes of other programs.
        settled = [seen[mark].get(name, Size()) for mark in marks]
        growth = [after.resident - before.resident for before, after in itertools.pairwise(settled)]
        assert len(growth) == STRETCHES
        assert statistics.median_low(growth) < STRETCH_LIMIT_MB, (name, settled)
        assert sum(growth) < GROWTH_LIMIT_MB, (name, settled)
        if name in SERVING:
            assert settled[-1].files - settled[0].files < FILES_LIMIT, (name, settled)
            assert settled[-1].threads - settled[0].threads < THREADS_LIMIT, (name, settled)
    assert objects[-1] - objects[0] < OBJECTS_LIMIT
    # The first is the warm-up's.
    early, late = min(medians[1:3]), min(medians[-2:])
    assert late < SLOWER_LIMIT * early

    family = service.family()
    service.process.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs([psutil.Process(service.process.pid), *family], STOP_WITHIN_S)
    # The parent reaped by wait_procs or not, a zombie is not left running.
    running = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not running, f"still running after {STOP_WITHIN_S} s: {running}"


def show(seen: dict[int, dict[str, Size]]) -> None:
    """Print each process' resident (unique) MB, descriptors and threads after so many requests."""
    print("\n| process, after requests: |", *(f"{count} |" for count in seen))
    for name in sorted({name for found in seen.values() for name in found}):
        row = [found.get(name, Size()) for found in seen.values()]
        cells = (f"{s.resident:.0f} ({s.unique:.0f}), {s.files}, {s.threads} |" for s in row)
        print(f"| {name} |", *cells)
