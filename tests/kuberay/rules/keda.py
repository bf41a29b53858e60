"""KEDA 2.20: what it scales here, and with which triggers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, title

_SCALABLE = frozenset({"Deployment", "StatefulSet"})
_REQUIRED = {
    "aws-cloudwatch": ("awsRegion", "targetMetricValue", "minMetricValue"),
    "prometheus": ("serverAddress", "query", "threshold"),
    "cron": ("timezone", "start", "end", "desiredReplicas"),
    "cpu": ("value",),
    "aws-sqs-queue": ("queueURL", "queueLength", "awsRegion"),
}


@rule
def scaled_target_can_scale(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Ray's kinds have no scale subresource, and a NodePool is cluster-wide: only Deployments."""
    for one in manifest.all("ScaledObject"):
        target = one["spec"].get("scaleTargetRef") or {}
        kind, name = target.get("kind", "Deployment"), target.get("name", "")
        if kind not in _SCALABLE:
            yield title(one), f"scaleTargetRef {kind}: KEDA can scale {sorted(_SCALABLE)} only"
            continue
        found = manifest.find(kind, name)
        if found is None:
            yield title(one), f"{kind} {name!r} is not made here"
        elif "replicas" in found["spec"]:
            yield title(found), "spec.replicas: every apply would undo what KEDA scaled"


@rule
def triggers_complete(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Known triggers, with what each needs; all values are text."""
    for one in manifest.all("ScaledObject", "ScaledJob"):
        for trigger in one["spec"].get("triggers") or []:
            kind, given = trigger.get("type"), trigger.get("metadata") or {}
            for key in _REQUIRED.get(kind, ()):
                if not given.get(key):
                    yield title(one), f"trigger {kind}: metadata.{key} is missing"
            if kind not in _REQUIRED:
                yield title(one), f"trigger type {kind!r} is not one of {sorted(_REQUIRED)}"
            if kind == "aws-cloudwatch" and not given.get("expression"):
                for key in ("namespace", "metricName", "dimensionName", "dimensionValue"):
                    if not given.get(key):
                        yield title(one), f"trigger {kind}: metadata.{key} or expression"
            for key, value in given.items():
                if not isinstance(value, str):
                    yield title(one), f"trigger {kind}: metadata.{key} {value!r} is not text"


@rule
def placeholders_give_way(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A placeholder keeps a node warm and must yield to any worker: a lower priority, at once."""
    classes = {one["metadata"]["name"]: one for one in manifest.all("PriorityClass")}

    def priority(name: str | None) -> float:
        return float(classes[name]["value"]) if name in classes else 0.0

    workers = [
        priority(pod.spec.get("priorityClassName"))
        for pod in manifest.ray_pods()
        if pod.role == "worker"
    ]
    for pod in manifest.workloads():
        if pod.role != "Deployment" or not pod.accelerators():
            continue
        own = priority(pod.spec.get("priorityClassName"))
        if own >= 0 or own >= min(workers, default=0.0):
            yield pod.where, f"priority {own:g}: must be negative and below the workers'"
        if pod.spec.get("terminationGracePeriodSeconds", 30) > 5:
            yield pod.where, "holds its device for a while when told to go; grace ≤ 5 s"


@rule
def priorities_for_the_named(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No PriorityClass is everybody's default."""
    for one in manifest.all("PriorityClass"):
        if one.get("globalDefault"):
            yield title(one), "globalDefault changes every other pod of the cluster"
