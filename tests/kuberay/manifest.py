"""Rendered Kubernetes objects, and the pods that they lead to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _node_type_from_group_spec
from ray.autoscaler._private.kuberay.utils import parse_quantity

Object = dict[str, Any]

ACCELERATORS = ("nvidia.com/gpu", "aws.amazon.com/neuron", "aws.amazon.com/neuroncore")
_TEMPLATED = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"})


@dataclass(frozen=True)
class Workload:
    """One kind of pod.

    Attributes:
        where: for messages.
        role: ``head``, ``worker`` or the owner's kind.
        owner: the object that makes the pods.
        template: pod metadata and spec.
        group: the Ray group, for Ray pods.
        cluster: the ``RayClusterSpec``, for Ray pods.
    """

    where: str
    role: str
    owner: Object
    template: Object
    group: Object = field(default_factory=dict)
    cluster: Object = field(default_factory=dict)

    @property
    def spec(self) -> Object:
        """The pod spec."""
        return self.template.get("spec", {})

    @property
    def containers(self) -> list[Object]:
        """Containers, the main one first; the autoscaler of a Ray head is not among them."""
        return [*self.spec.get("containers", []), *self.spec.get("initContainers", [])]

    @property
    def annotations(self) -> Mapping[str, str]:
        """The pods' annotations."""
        return self.template.get("metadata", {}).get("annotations") or {}

    @property
    def labels(self) -> dict[str, str]:
        """The pods' labels, with those that the KubeRay operator sets."""
        own = self.template.get("metadata", {}).get("labels") or {}
        if not self.group:
            return dict(own)
        added = {
            "app.kubernetes.io/name": "kuberay",
            "app.kubernetes.io/created-by": "kuberay-operator",
            "ray.io/is-ray-node": "yes",
            "ray.io/node-type": self.role,
            "ray.io/group": self.group.get("groupName", "headgroup"),
        }
        excluded = self.role == "head" and self.owner.get("spec", {}).get(
            "excludeHeadPodFromServeSvc", False
        )
        served = {"ray.io/serve": "false" if excluded else "true"}
        return {**self.group.get("labels", {}), **own, **added, **served}

    def requests(self) -> dict[str, float]:
        """What the scheduler reserves for one pod: CPU cores, bytes, devices."""
        total: dict[str, float] = {}
        sidecars = list(self.spec.get("containers", []))
        starting: list[Object] = []
        for container in self.spec.get("initContainers", []):
            always = container.get("restartPolicy") == "Always"
            (sidecars if always else starting).append(container)
        if self.role == "head" and self.cluster.get("enableInTreeAutoscaling"):
            # The operator's defaults for the autoscaler's container.
            default = {"requests": {"cpu": "500m", "memory": "512Mi"}}
            options = self.cluster.get("autoscalerOptions", {})
            sidecars.append({"resources": options.get("resources", default)})
        for container in sidecars:
            for name, amount in _requests(container).items():
                total[name] = total.get(name, 0.0) + amount
        for container in starting:
            for name, amount in _requests(container).items():
                total[name] = max(total.get(name, 0.0), amount)
        return total

    def accelerators(self) -> dict[str, float]:
        """The devices that one pod asks for."""
        wanted = self.requests()
        return {name: wanted[name] for name in ACCELERATORS if wanted.get(name)}

    def ray_resources(self) -> dict[str, float]:
        """What the Ray autoscaler takes one pod to offer: Ray's own function.

        Raises:
            Exception: whatever Ray's function raises, as it would in the autoscaler.
        """
        group = {"minReplicas": 0, "maxReplicas": 1, **self.group}
        found = _node_type_from_group_spec(group, is_head=self.role == "head")["resources"]
        return {name: float(amount) for name, amount in found.items()}


def _requests(container: Object) -> dict[str, float]:
    resources = container.get("resources") or {}
    # A limit without a request is a request too.
    wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(amount) for name, amount in wanted.items()}


def quantity(amount: Any) -> float:
    """A Kubernetes quantity in base units."""
    return float(parse_quantity(str(amount)))


class Manifest:
    """The objects of one overlay."""

    def __init__(self, objects: list[Object], name: str = "") -> None:
        self.objects = objects
        self.name = name

    def copy(self) -> Manifest:
        """A deep copy."""
        return Manifest(copy.deepcopy(self.objects), self.name)

    def all(self, *kinds: str) -> list[Object]:
        """Every object of one of ``kinds``."""
        return [one for one in self.objects if one.get("kind") in kinds]

    def find(self, kind: str, name: str) -> Object | None:
        """The object of that kind and name, if there is one."""
        return next((o for o in self.all(kind) if o["metadata"]["name"] == name), None)

    def ray_clusters(self) -> Iterator[tuple[Object, Object]]:
        """Every object that makes a Ray cluster, with its ``RayClusterSpec``."""
        for one in self.all("RayService", "RayCluster", "RayJob"):
            spec = one.get("spec", {})
            key = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}.get(one["kind"])
            cluster = spec.get(key, {}) if key else spec
            if cluster:
                yield one, cluster

    def workloads(self) -> Iterator[Workload]:
        """Every kind of pod that the objects lead to."""
        for owner, cluster in self.ray_clusters():
            where = title(owner)
            head = cluster["headGroupSpec"]
            yield Workload(f"{where} head", "head", owner, head["template"], head, cluster)
            for group in cluster.get("workerGroupSpecs", []):
                name = f"{where} group {group['groupName']}"
                yield Workload(name, "worker", owner, group["template"], group, cluster)
        for one in self.objects:
            kind, spec = one.get("kind", ""), one.get("spec", {})
            if kind == "Pod":
                yield Workload(title(one), kind, one, one)
            elif kind in _TEMPLATED:
                yield Workload(title(one), kind, one, spec["template"])
            elif kind == "CronJob":
                template = spec["jobTemplate"]["spec"]["template"]
                yield Workload(title(one), kind, one, template)
            elif kind == "ScaledJob":
                yield Workload(title(one), kind, one, spec["jobTargetRef"]["template"])

    def ray_pods(self) -> list[Workload]:
        """Heads and worker groups."""
        return [workload for workload in self.workloads() if workload.group]


def title(one: Object) -> str:
    """``Kind/name``."""
    return f"{one.get('kind')}/{one.get('metadata', {}).get('name')}"


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in ``value``, keys too, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}", str(key)
            yield from strings(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from strings(inner, f"{path}[{index}]")
