"""``serve deploy`` onto a running cluster: what was deployed, and what changes live.

The cluster is one node with one core and one (made-up) GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.conftest import (
    ROOT,
    Service,
    free_port,
    is_up,
    shipped_config,
    wait_for,
    with_tiny_model,
)

pytestmark = pytest.mark.e2e


@dataclass
class Deployed(Service):
    """A service that ``serve deploy`` has brought up."""

    config: dict[str, Any]
    dashboard: str
    folder: Path

    def deploy(self, config: dict[str, Any]) -> None:
        """Send ``config`` as ``serve deploy`` does."""
        path = self.folder / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        serve("deploy", str(path), "--address", self.dashboard)

    def ask(self, command: str) -> Any:
        """What ``serve status`` or ``serve config`` prints."""
        return yaml.safe_load(serve(command, "--address", self.dashboard))

    def deploy_weights(self, weights: dict[str, Any]) -> None:
        """Deploy what ``serve config`` shows, with other weights in ``user_config``."""
        application = self.ask("config")
        (ingress,) = (d for d in application["deployments"] if d["name"] == "Ingress")
        ingress["user_config"] = {"weights": weights}
        self.deploy({**self.config, "applications": [application]})

    def replica_ids(self) -> dict[str, list[str]]:
        """Deployment -> ids of its replicas, as the dashboard shows them."""
        details = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30).json()
        found = details["applications"]["imagine"]["deployments"]
        return {
            name: [replica["replica_id"] for replica in deployment["replicas"]]
            for name, deployment in found.items()
        }


def serve(*arguments: str) -> str:
    """Run Ray's ``serve`` command; its output."""
    command = [str(Path(sys.executable).with_name("serve")), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The shipped config, but pool gpu runs framework cpu, on one core and one GPU."""
    from ray.cluster_utils import Cluster

    folder, port, dashboard = tmp_path_factory.mktemp("deploy"), free_port(), free_port()
    config = with_tiny_model(shipped_config(port), folder)
    config["applications"][0]["args"]["pools"]["gpu"]["framework"] = "cpu"
    # Every process of the cluster must find our packages.
    os.environ["PYTHONPATH"] = str(ROOT)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "num_gpus": 1,
            "include_dashboard": True,
            "dashboard_port": dashboard,
        },
    )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=90) as client:
            service = Deployed(
                url=url,
                client=client,
                cluster=cluster,
                config=config,
                dashboard=f"http://127.0.0.1:{dashboard}",
                folder=folder,
            )
            service.deploy(config)
            wait_for("the service", lambda: is_up(client))
            yield service
    finally:
        cluster.shutdown()


def test_what_was_deployed_is_what_runs(deployed: Deployed) -> None:
    healthy = dict.fromkeys(["Ingress", "gpu", "neuron", "cpu"], "HEALTHY")

    def settled() -> bool:
        application = deployed.ask("status")["applications"]["imagine"]
        states = {name: d["status"] for name, d in application["deployments"].items()}
        return application["status"] == "RUNNING" and states == healthy

    wait_for("RUNNING", settled, 60)
    (application,) = deployed.config["applications"]
    # Ray hands the logging of all applications to each.
    logging = {"logging_config": deployed.config["logging_config"]}
    assert deployed.ask("config") == application | logging
    assert deployed.post().status_code == 200


def test_the_gpu_is_not_idle_for_want_of_a_core(deployed: Deployed) -> None:
    """The cpu pool's replica has the only core; the GPU is used all the same."""
    wait_for("the pool gpu", lambda: bool(deployed.pool("gpu")["available"]), 60)
    assert deployed.pool("cpu")["available"]
    assert deployed.post().headers["x-pool"] == "gpu"


def shares(deployed: Deployed) -> dict[str, float]:
    pools = deployed.client.get("/pools").json()["pools"]
    return {pool["name"]: pool["share"] for pool in pools if pool["share"]}


def test_weights_change_live_and_a_bad_change_is_refused(deployed: Deployed) -> None:
    wait_for("the pool gpu", lambda: shares(deployed) == {"gpu": 1.0})
    before = deployed.replica_ids()
    assert {name: len(ids) for name, ids in before.items()} == {
        "Ingress": 1,
        "gpu": 1,
        "cpu": 1,
        "neuron": 0,
    }

    deployed.deploy_weights({"gpu": 1, "cpu": 3})
    wait_for("new shares", lambda: shares(deployed) == {"gpu": 0.25, "cpu": 0.75}, 30)
    seen = Counter(deployed.post().headers["x-pool"] for _ in range(8))
    assert seen == {"gpu": 2, "cpu": 6}

    bad: list[tuple[dict[str, Any], str]] = [
        ({"gpu": 7, "tpu": 1}, "weights.tpu: no such pool"),
        ({"gpu": 7, "cpu": -1}, "weights.cpu: got -1; allowed: at least 0"),
    ]
    for weights, problem in bad:
        deployed.deploy_weights(weights)
        wait_for(problem, lambda p=problem: p in (config_problem(deployed) or ""), 30)
        assert shares(deployed) == {"gpu": 0.25, "cpu": 0.75}
        assert deployed.post().status_code == 200

    deployed.deploy_weights({})
    wait_for("the first shares", lambda: shares(deployed) == {"gpu": 1.0}, 30)
    assert config_problem(deployed) is None
    # None of it has restarted anything.
    assert deployed.replica_ids() == before
    assert deployed.ask("status")["applications"]["imagine"]["status"] == "RUNNING"


def config_problem(deployed: Deployed) -> str | None:
    problem: str | None = deployed.client.get("/pools").json()["config_problem"]
    return problem
