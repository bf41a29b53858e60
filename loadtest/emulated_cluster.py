"""A Ray cluster on this machine in which every emulated pool has a node of its own."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from loadtest.launching import check_port
from serve_app.live import LiveSettings
from serve_app.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "serve_config.emulated.yaml"


class EmulatedCluster:
    """The service of ``serve_config.emulated.yaml``, with nodes that can be lost and come back.

    Args:
        cluster: a ``ray.cluster_utils.Cluster`` with a head.
        config: the Serve config.
        dashboard: address of Ray's dashboard, where Serve takes its config.
    """

    def __init__(self, cluster: Any, config: Mapping[str, Any], dashboard: str) -> None:
        self._cluster = cluster
        self._config = copy.deepcopy(dict(config))
        self._dashboard = dashboard
        self._nodes: dict[str, Any] = {}
        options = config["http_options"]
        self.url = f"http://{options['host']}:{options['port']}"

    @property
    def pools(self) -> list[str]:
        """Names of the declared pools."""
        return list(self._config["applications"][0]["args"]["pools"])

    @property
    def alive(self) -> list[str]:
        """Pools whose node is there."""
        return list(self._nodes)

    def revive(self, pool: str) -> None:
        """Add the pool's node, if it is not there."""
        if pool not in self._nodes:
            resources = self._config["applications"][0]["args"]["pools"][pool]["resources"]
            self._nodes[pool] = self._cluster.add_node(
                num_cpus=0, resources=dict(resources["resources"])
            )

    def kill(self, pool: str) -> None:
        """Take the pool's node away without notice, as lost capacity is."""
        node = self._nodes.pop(pool, None)
        if node is not None:
            self._cluster.remove_node(node, allow_graceful=False)

    def configure(self, **live: Any) -> None:
        """Change keys of the ingress' ``user_config`` in the running service.

        Raises:
            SettingsError: they would be refused; nothing is changed.
            httpx.HTTPStatusError: Serve does not take the config.
        """
        (application,) = self._config["applications"]
        (ingress,) = (d for d in application["deployments"] if d["name"] == "Ingress")
        changed = ingress["user_config"] | live
        LiveSettings.parse(changed, Settings.parse(application["args"]))
        ingress["user_config"] = changed
        self.deploy()

    def deploy(self) -> None:
        """Send the config as ``serve deploy`` does.

        Raises:
            httpx.HTTPStatusError: Serve does not take it.
        """
        url = f"{self._dashboard}/api/serve/applications/"
        httpx.put(url, json=self._config, timeout=60).raise_for_status()


@contextmanager
def emulated_cluster(
    *, port: int | None = None, dashboard_port: int = 8265, config: Path = CONFIG
) -> Iterator[EmulatedCluster]:
    """Start the nodes and deploy the service; all is gone afterwards.

    Args:
        port: HTTP port instead of the config's.
        dashboard_port: for Ray's dashboard.
        config: the Serve config.

    Raises:
        PortTaken: another program has one of the ports.
    """
    parsed: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    if port is not None:
        parsed["http_options"]["port"] = port
    options = parsed["http_options"]
    check_port(options["port"], options["host"])
    check_port(dashboard_port)
    with cluster_head(dashboard_port) as cluster:
        service = EmulatedCluster(cluster, parsed, f"http://127.0.0.1:{dashboard_port}")
        for pool in service.pools:
            service.revive(pool)
        service.deploy()
        yield service


@contextmanager
def cluster_head(dashboard_port: int) -> Iterator[Any]:
    """A ``ray.cluster_utils.Cluster`` whose head has room for the ingress alone; gone afterwards.

    Args:
        dashboard_port: for Ray's dashboard.
    """
    from ray.cluster_utils import Cluster

    # Every process of the cluster must find our packages.
    os.environ["PYTHONPATH"] = str(ROOT)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "resources": {"front": 1},
            "include_dashboard": True,
            "dashboard_port": dashboard_port,
        },
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()
