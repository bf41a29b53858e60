"""One Ray cluster with the service on it, for all end-to-end tests."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from tests.e2e import tiny_model

ROOT = Path(__file__).resolve().parents[2]
PORT = 18_731
GRPC_PORT = 18_732
KEY = "im-the-key-of-the-tests"
HASTY_KEY = "im-the-key-that-may-ask-once"
START_S = 180.0
BODY_TIMEOUT_S = 5
MADE_UP = {"made_up": "neuron_cores", "twin": "made_up_cores"}  # pool -> its hardware


@dataclass
class Service:
    """The running service and the cluster under it."""

    url: str
    client: httpx.Client
    cluster: Any
    folder: Path

    def post(self, **fields: Any) -> httpx.Response:
        """``POST /imagine``."""
        return self.client.post("/imagine", json={"prompt": "a red circle", **fields})

    def pool(self, name: str) -> dict[str, Any]:
        """One pool as ``/pools`` shows it."""
        pools: list[dict[str, Any]] = self.client.get("/pools").json()["pools"]
        return next(pool for pool in pools if pool["name"] == name)


def replica_processes(deployment: str) -> list[psutil.Process]:
    """The replicas of ``deployment`` among the processes that this one has started."""
    title = re.compile(rf"ray::ServeReplica:imagine:{deployment}\b")
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title.match(" ".join(process.cmdline())):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # gone since it was listed
    return found


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)


def assert_same_picture(one: bytes, other: bytes) -> None:
    """The seed promise: at most one level off in at most 0.1 % of the byte values."""
    difference = np.abs(pixels(one) - pixels(other))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.001


def wait_for(what: str, check: Callable[[], bool], timeout_s: float = START_S) -> None:
    """Poll ``check`` until it is true."""
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.5)


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def shipped_config(port: int) -> dict[str, Any]:
    """``serve_config.yaml`` on other ports."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
    config["http_options"]["port"] = port
    config["grpc_options"]["port"] = free_port()
    return config


def with_tiny_model(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``config`` with the tiny model, which is built in ``folder``, and one thread a replica."""
    tiny_model.build(folder / "model")
    arguments = config["applications"][0]["args"]
    arguments["model"] = {"source": str(folder / "model")}
    for pool in arguments["pools"].values():
        pool["engine"] = {"threads": 1}
    return config


def write_config(folder: Path) -> Path:
    """The shipped config with the tiny model, another port and two more pools.

    ``made_up`` and ``twin`` run framework cpu on hardware that no node has at first.
    """
    config = with_tiny_model(shipped_config(PORT), folder)
    (application,) = config["applications"]
    arguments = application["args"]
    arguments["limits"] = {"request_timeout_s": 240, "body_timeout_s": BODY_TIMEOUT_S}
    config["grpc_options"]["port"] = GRPC_PORT
    arguments["access"] = {
        "keys": {
            "tester": {"sha256": hashlib.sha256(KEY.encode()).hexdigest()},
            "hasty": {
                "sha256": hashlib.sha256(HASTY_KEY.encode()).hexdigest(),
                "requests_per_minute": 6,
                "burst": 1,
            },
        },
        "anonymous": {},  # most tests come without a key
    }
    arguments["telemetry"] = {
        "cloudwatch": {"mode": "emf", "file": str(folder / "emf.log"), "period_s": 0.5}
    }
    ingress = next(d for d in application["deployments"] if d["name"] == "Ingress")
    ingress["user_config"] = {"prices": {"cpu": 0.17}}
    bounds = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1, "upscale_delay_s": 1}
    for name, resource in MADE_UP.items():
        # The policy sees them too: its pools are these, by a YAML anchor.
        arguments["pools"][name] = {
            "accelerator": f"{name}-card",
            "framework": "cpu",
            "resources": {"num_cpus": 0, "resources": {resource: 2}},
            "weight": 50,
            # A retried picture can then be compared bit by bit.
            "engine": {"threads": 1, "deterministic": True, "max_rows": 4},
        }
        application["deployments"].append({"name": name, "autoscaling_config": bounds})
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def is_up(client: httpx.Client) -> bool:
    """Whether ``/readiness`` says 200."""
    try:
        return client.get("/readiness").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def serving(config: Path, port: int) -> Iterator[Service]:
    """``config`` on a cluster of one plain node, started as the README starts it."""
    from ray.cluster_utils import Cluster

    # Every process of the cluster must find our packages.
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT), *filter(None, inherited)]))
    os.environ["FORWARDED_ALLOW_IPS"] = "none"  # as the Makefile and the images have it
    # So that no test waits long for a metric.
    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112 - as Ray spells it
    # A dashboard port of its own: the tests of one run have several clusters.
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "dashboard_port": free_port()}
    )
    serve = Path(sys.executable).with_name("serve")
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(serve), "run", str(config), "--address", cluster.address],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=90) as client:
            try:
                wait_for("the service", lambda: is_up(client))
            except AssertionError:
                print(log.read_text(errors="replace")[-5000:])
                raise
            yield Service(url=url, client=client, cluster=cluster, folder=config.parent)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        cluster.shutdown()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the tiny model, for all tests that do not say otherwise."""
    with serving(write_config(tmp_path_factory.mktemp("e2e")), PORT) as running:
        yield running
