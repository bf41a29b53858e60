"""Which NodePools a pod can land on, as Karpenter and the scheduler decide it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.kuberay.instances import INSTANCES, Instance
from tests.kuberay.manifest import Object, Workload

_CAPACITY = "karpenter.sh/capacity-type"
# Labels of which a node of any pool has one, unless the pool says which.
_ANY_VALUE = frozenset(
    {
        "topology.kubernetes.io/zone",
        "topology.k8s.aws/zone-id",
        "topology.kubernetes.io/region",
        "karpenter.k8s.aws/capacity-reservation-id",
        "karpenter.k8s.aws/capacity-reservation-type",
    }
)


@dataclass(frozen=True)
class Pool:
    """A NodePool and the instance types that it may launch."""

    raw: Object

    @property
    def name(self) -> str:
        """The NodePool's name."""
        return str(self.raw["metadata"]["name"])

    @property
    def _template(self) -> Object:
        template: Object = self.raw["spec"]["template"]
        return template

    @property
    def labels(self) -> dict[str, str]:
        """Labels that every node of the pool has."""
        given = self._template.get("metadata", {}).get("labels") or {}
        return {**given, "karpenter.sh/nodepool": self.name}

    @property
    def requirements(self) -> list[Object]:
        """What the instance must be."""
        return list(self._template["spec"].get("requirements", []))

    @property
    def taints(self) -> list[Object]:
        """Taints that keep pods away for good."""
        return list(self._template["spec"].get("taints") or [])

    def capacity_types(self) -> set[str]:
        """Such as ``{"spot", "on-demand"}``."""
        allowed = {"spot", "on-demand", "reserved"}
        for one in self.requirements:
            if one["key"] == _CAPACITY:
                allowed = {v for v in allowed if satisfies(v, one["operator"], one.get("values"))}
        return allowed

    def instances(self) -> list[Instance]:
        """Known instance types that meet the requirements, the smallest first."""
        return list(_allowed(json.dumps(self.labels), json.dumps(self.requirements)))

    @property
    def accelerated(self) -> bool:
        """Whether it may launch an instance with accelerators."""
        return any(instance.accelerated for instance in self.instances())

    def domain(self, key: str, instance: Instance) -> set[str] | None:
        """Values that label ``key`` may have on a node; ``None``: any; empty: not there."""
        known = {**self.labels, **instance.labels()}
        if key in known:
            return {known[key]}
        if key == _CAPACITY:
            return self.capacity_types()
        listed = [one for one in self.requirements if one["key"] == key]
        if any(one["operator"] == "In" for one in listed):
            return {v for one in listed for v in one.get("values", [])}
        return None if key in _ANY_VALUE else set()


@functools.lru_cache(maxsize=256)
def _allowed(labels: str, requirements: str) -> tuple[Instance, ...]:
    common = json.loads(labels)
    wanted = [one for one in json.loads(requirements) if one["key"] not in _ANY_VALUE | {_CAPACITY}]
    found = [
        instance
        for instance in INSTANCES.values()
        if all(
            satisfies(
                {**common, **instance.labels()}.get(one["key"]), one["operator"], one.get("values")
            )
            for one in wanted
        )
    ]
    return tuple(sorted(found, key=lambda i: (i.cpus, i.memory_gib, i.gpus, i.neurons)))


def satisfies(value: str | None, operator: str, values: Iterable[str] | None) -> bool:
    """Whether a label's value (``None``: not there) meets one requirement."""
    wanted = list(values or [])
    if operator in {"DoesNotExist", "NotIn"}:
        return value is None or (operator == "NotIn" and value not in wanted)
    if value is None:
        return False
    if operator == "Exists":
        return True
    if operator == "In":
        return value in wanted
    number, bound = float(value), float(wanted[0])
    return {
        "Gt": number > bound,
        "Lt": number < bound,
        "Gte": number >= bound,
        "Lte": number <= bound,
    }[operator]


def tolerates(tolerations: Iterable[Object], taint: Object) -> bool:
    """Whether one of the tolerations covers ``taint``."""
    if taint["effect"] == "PreferNoSchedule":
        return True
    for one in tolerations:
        same_key = one.get("key") in (None, "", taint["key"])
        same_effect = one.get("effect") in (None, "", taint["effect"])
        exists = one.get("operator", "Equal") == "Exists"
        same_value = exists or one.get("value", "") == taint.get("value", "")
        if same_key and same_effect and same_value and (exists or one.get("key")):
            return True
    return False


def attracted(pod: Workload, pool: Pool, instance: Instance) -> bool:
    """Whether selectors, required affinity and tolerations let ``pod`` onto such a node."""
    spec = pod.spec
    if not all(tolerates(spec.get("tolerations") or [], taint) for taint in pool.taints):
        return False
    wanted: list[tuple[str, str, Any]] = [
        (key, "In", [value]) for key, value in (spec.get("nodeSelector") or {}).items()
    ]
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        [(e["key"], e["operator"], e.get("values")) for e in term.get("matchExpressions", [])]
        for term in required.get("nodeSelectorTerms", [])
    ] or [[]]
    return any(
        all(_meets(pool.domain(key, instance), op, values) for key, op, values in wanted + term)
        for term in terms
    )


def _meets(domain: set[str] | None, operator: str, values: Any) -> bool:
    if domain is None:
        return operator != "DoesNotExist"
    if not domain:
        return satisfies(None, operator, values)
    return any(satisfies(value, operator, values) for value in domain)


def fits(pod: Workload, instance: Instance) -> bool:
    """Whether an empty node of that type has what ``pod`` requests."""
    room = instance.allocatable()
    return all(
        amount <= room.get(name, 0.0)
        for name, amount in pod.requests().items()
        if name != "ephemeral-storage"
    )


def places(pod: Workload, pools: Iterable[Pool]) -> dict[str, list[Instance]]:
    """NodePool name -> instance types on which ``pod`` could be scheduled."""
    found = {
        pool.name: [i for i in pool.instances() if attracted(pod, pool, i) and fits(pod, i)]
        for pool in pools
    }
    return {name: instances for name, instances in found.items() if instances}
