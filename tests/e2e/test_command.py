"""``serve run serve_config.yaml`` as a person runs it: a long run's memory, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
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

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = 2000
WARM = 500
INGRESS_LIMIT_MB = 300
# Allocators settle slowly; a leak of 20 kB a request would show twice over.
GROWTH_LIMIT_MB = 30
STOP_WITHIN_S = 10


class Service:
    """A ``serve run`` process and where it answers."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def family(self) -> list[psutil.Process]:
        """The process and all that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def resident_mb(self) -> dict[str, float]:
        """Resident size of the ingress' and the replica's process, in MB."""
        sizes = {}
        for process in self.family():
            name = " ".join(process.cmdline())
            for part in ("Ingress", "cpu"):
                if f"ServeReplica:imagine:{part}" in name:
                    sizes[part] = process.memory_info().rss / 2**20
        return sizes


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    port = config["http_options"]["port"] = free_port()
    config["grpc_options"]["port"] = free_port()
    path, log = tmp_path / "serve_config.yaml", tmp_path / "serve.log"
    path.write_text(yaml.safe_dump(config))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("serve")), "run", str(path)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
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


def test_memory_stays_flat_and_ctrl_c_leaves_nothing(service: Service) -> None:
    sizes = []
    with httpx.Client(base_url=service.url, timeout=120) as client:

        def one(seed: int) -> int:
            body = {"prompt": f"{seed} blue squares", "seed": seed, "num_inference_steps": 2}
            return client.post("/imagine", json=body).status_code

        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(one, range(WARM))) == {200}
            sizes.append(service.resident_mb())
            assert set(pool.map(one, range(WARM, REQUESTS))) == {200}
            sizes.append(service.resident_mb())
    print(f"resident MB after {WARM} and {REQUESTS} requests: {sizes}")
    before, after = sizes
    assert set(after) == {"Ingress", "cpu"}
    assert after["Ingress"] < INGRESS_LIMIT_MB
    for part, size in after.items():
        assert size - before[part] < GROWTH_LIMIT_MB, f"{part} grew: {sizes}"

    family = service.family()
    service.process.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs([psutil.Process(service.process.pid), *family], STOP_WITHIN_S)
    # The parent reaped by wait_procs or not, a zombie is not left running.
    running = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not running, f"still running after {STOP_WITHIN_S} s: {running}"
