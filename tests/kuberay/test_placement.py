"""The overlay's Serve config on a real Ray cluster whose nodes offer what its worker groups offer.

What differs from the real thing: nodes are processes on this machine, resources are only said to be
there, and each pool's framework is the emulated one (CPU) with the embedded model.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import yaml

from kuberay.jobs.smoke_test.base import smoke
from tests.e2e.conftest import free_port, wait_for
from tests.kuberay import rendering
from tests.kuberay.manifest import Workload

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LATE = "g6"  # comes after all others have their replicas


@dataclass
class Stand:
    """A cluster with one node per worker group, and the service on it."""

    cluster: Any
    dashboard: str
    url: str
    groups: dict[str, Workload]
    nodes: dict[str, str] = field(default_factory=dict)  # node id -> group

    def add(self, group: str) -> None:
        """A node of that group, with the resources that Ray's autoscaler expects of it."""
        offered = self.groups[group].ray_resources()
        node = self.cluster.add_node(
            num_cpus=int(offered.pop("CPU")),
            num_gpus=int(offered.pop("GPU", 0)),
            resources={k: v for k, v in offered.items() if k != "memory"},
        )
        self.nodes[node.node_id] = group

    def running(self) -> dict[str, list[str]]:
        """Deployment -> the groups that its running replicas are on."""
        shown = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30).json()
        deployments = shown["applications"].get("imagine", {}).get("deployments", {})
        return {
            name: [
                self.nodes.get(replica["node_id"], "head")
                for replica in deployment["replicas"]
                if replica["state"] == "RUNNING"
            ]
            for name, deployment in deployments.items()
        }


def emulated(config: dict[str, Any], port: int) -> dict[str, Any]:
    """The config with CPU-backed pools of one replica each; resources stay as they are."""
    changed = copy.deepcopy(config)
    (application,) = changed["applications"]
    arguments = application["args"]
    arguments["model"] = {"source": "embedded"}
    for pool in arguments["pools"].values():
        pool |= {
            "framework": "emulated",
            "emulation": {"step_s": 0.01},
            "engine": {"threads": 1, "max_rows": 2},
            "min_replicas": 1,
            "max_replicas": 1,
            "elastic": None,
            "artifact": None,
        }
    application["autoscaling_policy"]["policy_kwargs"]["pools"] = arguments["pools"]
    for deployment in application["deployments"]:
        if "autoscaling_config" in deployment:
            deployment["autoscaling_config"]["max_replicas"] = 1
    # All nodes share this machine's ports; which node has a proxy is not what is looked at.
    changed["proxy_location"] = "HeadOnly"
    changed["http_options"] |= {"host": "127.0.0.1", "port": port}
    changed["grpc_options"]["port"] = free_port()
    return changed


@pytest.fixture(scope="module")
def stand(kubectl: str) -> Iterator[Stand]:
    """Every family's node but one, and the service with all replicas that fit."""
    from ray.cluster_utils import Cluster

    manifest = rendering.overlay("eks-all")
    workers = {p.group["groupName"]: p for p in manifest.ray_pods() if p.role == "worker"}
    assert {"g5", "g6", "p4", "inf2", "trn1"} < set(workers)
    (service,) = manifest.all("RayService")
    port, dashboard = free_port(), free_port()
    os.environ["PYTHONPATH"] = str(rendering.ROOT)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": dashboard},
    )
    try:
        found = Stand(cluster, f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{port}", workers)
        for group in workers:
            if group != LATE:
                found.add(group)
        config = emulated(yaml.safe_load(service["spec"]["serveConfigV2"]), port)
        url = f"{found.dashboard}/api/serve/applications/"
        httpx.put(url, json=config, timeout=60).raise_for_status()
        yield found
    finally:
        cluster.shutdown()


def test_every_pool_has_its_replica_on_its_own_group_and_nowhere_else(stand: Stand) -> None:
    families = sorted(set(stand.groups) - {"ingress"})

    def others() -> bool:
        running = stand.running()
        return all(running.get(family) for family in families if family != LATE)

    wait_for("the pools whose nodes are there", others, 240)
    running = stand.running()
    assert running.pop(LATE, []) == []  # it does not go to another GPU's node
    assert set(running.pop("Ingress")) == {"ingress"}
    assert running == {family: [family] for family in families if family != LATE}

    stand.add(LATE)
    wait_for("the late pool", lambda: stand.running().get(LATE) == [LATE], 240)
    assert {name: set(groups) for name, groups in stand.running().items()} == {
        "Ingress": {"ingress"},
        **{family: {family} for family in families},
    }


def test_every_pool_paints(stand: Stand) -> None:
    with httpx.Client(base_url=stand.url, timeout=120) as client:
        for family in sorted(set(stand.groups) - {"ingress"}):
            request = {"prompt": "a red circle", "seed": 1, "pool": family}
            answer = client.post("/imagine", json=request)
            assert answer.status_code == 200, answer.text
            assert answer.headers["X-Pool"] == family
            assert "emulated" in answer.headers["X-Accelerator"]


def test_the_smoke_test_of_a_rollout(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """The very script that ``kuberay/jobs/smoke_test`` runs."""
    smoke.main([stand.url, "--wait-s", "120"])
    assert capsys.readouterr().out.startswith("ok: ")


def test_the_smoke_test_fails_where_there_is_no_service() -> None:
    with pytest.raises(SystemExit, match="no picture in time"):
        smoke.main([f"http://127.0.0.1:{free_port()}", "--wait-s", "0"])
