"""Ray's own autoscaler (v2) on our RayServices: a waiting replica brings a node of its family.

From the custom resource to the decision everything is Ray's code: what reads the resource, and the
scheduler that picks the worker groups to grow.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from tests.kuberay import rendering
from tests.kuberay.manifest import Manifest, Object
from tests.kuberay.mutations.base import NEURON, cluster, group
from tests.kuberay.rules.serving import configs, offering, settings


class _NoEvents:
    """The scheduler tells what it did to the cluster's event log; there is none here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def launched(
    owner: Object, spec: Object, *demands: tuple[dict[str, float], int]
) -> tuple[Counter[str], int]:
    """Worker groups that grow for so many replicas with such needs, and needs that none meets."""
    metadata = {"name": owner["metadata"]["name"], "namespace": owner["metadata"]["namespace"]}
    derived = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": spec})
    config = AutoscalingConfig(derived, skip_content_hash=True)
    requests = [ResourceRequestUtil.make(needs) for needs, count in demands for _ in range(count)]
    reply = ResourceDemandScheduler(_NoEvents()).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(requests),
        )
    )
    counts = Counter({one.instance_type: one.count for one in reply.to_launch})
    return counts, len(reply.infeasible_resource_requests)


def test_a_replica_brings_a_node_of_its_family_and_nothing_else(overlay: Manifest) -> None:
    checked = 0
    for owner, config in configs(overlay):
        spec, parsed = owner["spec"]["rayClusterConfig"], settings(config)
        assert parsed is not None
        steady, _ = launched(owner, spec)
        for name, pool in parsed.pools.items():
            needs = pool.resources.needs()
            (home,) = (p for p in offering(overlay, owner, needs) if p.role == "worker")
            each = int(min(home.ray_resources()[r] / amount for r, amount in needs.items()))
            for replicas in (1, pool.max_replicas):
                grown, infeasible = launched(owner, spec, (needs, replicas))
                nodes = max(math.ceil(replicas / each), steady[home.group["groupName"]])
                assert infeasible == 0, name
                assert grown == steady | Counter({home.group["groupName"]: nodes}), name
                checked += 1
    assert checked


def test_the_ingress_needs_no_node_beyond_the_least(overlay: Manifest) -> None:
    for owner, config in configs(overlay):
        spec, parsed = owner["spec"]["rayClusterConfig"], settings(config)
        assert parsed is not None
        needs = dict(parsed.ingress.resources)
        steady, _ = launched(owner, spec)
        assert launched(owner, spec, (needs, parsed.ingress.replicas)) == (steady, 0)


def test_without_declared_cores_neuron_never_comes() -> None:
    """The mistake of every published Neuron RayService (ray-project/ray#44361), as Ray sees it."""
    manifest = rendering.example().copy()
    (owner,) = manifest.all("RayService")
    needs = {"neuron_cores": 2.0, "inf2": 1.0}
    steady, _ = launched(owner, cluster(manifest))
    grown, infeasible = launched(owner, cluster(manifest), (needs, 1))
    assert (grown - steady, infeasible) == (Counter({"inf2": 1}), 0)
    group(manifest, NEURON)["resources"].pop("neuron_cores")
    grown, infeasible = launched(owner, cluster(manifest), (needs, 1))
    assert (grown, infeasible) == (steady, 1)
