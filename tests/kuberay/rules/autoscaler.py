"""What Ray's autoscaler and Karpenter must agree on."""

from __future__ import annotations

from collections.abc import Iterator

from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Workload, title
from tests.kuberay.rules.operator import env_names, is_v2

_CORES_PER_DEVICE = 2
ALLOCATE = "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"
_STANDARD = frozenset({"CPU", "GPU", "TPU", "memory"})


@rule
def autoscaler_v2(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """In-tree autoscaling, version v2 spelt out, with its own resources and security context."""
    for owner, cluster in manifest.ray_clusters():
        if not is_v2(cluster):
            yield (
                title(owner),
                "set enableInTreeAutoscaling: true and autoscalerOptions.version: v2",
            )
            continue
        options = cluster["autoscalerOptions"]
        for key in ("resources", "securityContext", "idleTimeoutSeconds"):
            if key not in options:
                yield title(owner), f"autoscalerOptions.{key} is not set"


@rule
def pending_nodes_time_out(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """An hour is Ray's default before another group is tried; below 10 min slow nodes are killed.

    The variable is read by the autoscaler's container: on a Ray container it does nothing.
    """
    for owner, cluster in manifest.ray_clusters():
        accelerated = any(pod.accelerators() for pod in manifest.ray_pods() if pod.owner is owner)
        options = cluster.get("autoscalerOptions") or {}
        given = {e["name"]: e.get("value", "") for e in options.get("env") or []}.get(ALLOCATE)
        if accelerated and given is None:
            yield title(owner), f"autoscalerOptions.env does not set {ALLOCATE}"
        elif given is not None and not (given.isdigit() and 600 <= int(given) <= 3600):
            yield title(owner), f"{ALLOCATE} {given!r}: outside 600 to 3600 s"
    for pod in manifest.ray_pods():
        stray = sorted(n for n in env_names(pod.containers[0]) if n.startswith("RAY_AUTOSCALER_"))
        if stray:
            yield pod.where, f"{stray} belong into autoscalerOptions.env"


@rule
def readable_by_ray(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Ray's own function must take every group; what it raises kills the autoscaler."""
    for pod in manifest.ray_pods():
        try:
            pod.ray_resources()
        except Exception as error:
            yield pod.where, f"Ray's autoscaler cannot read it: {type(error).__name__}: {error}"
    for owner, cluster in manifest.ray_clusters():
        metadata = {"name": owner["metadata"]["name"], "namespace": "any"}
        try:
            _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": cluster})
        except Exception as error:
            yield title(owner), f"Ray's autoscaler cannot read it: {type(error).__name__}: {error}"


@rule
def neuron_cores_declared(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The autoscaler sees no Neuron device by itself: declare ``neuron_cores``, 2 a device."""
    for pod in manifest.ray_pods():
        wanted = pod.requests()
        devices = wanted.get("aws.amazon.com/neuron", 0.0)
        cores = wanted.get("aws.amazon.com/neuroncore", devices * _CORES_PER_DEVICE)
        declared = _seen(pod).get("neuron_cores", 0.0)
        if declared != cores:
            yield (
                pod.where,
                f"neuron_cores is {declared:g} to the autoscaler; the pod has {cores:g}",
            )


@rule
def gpus_declared(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """As many GPUs to Ray as the pod has."""
    for pod in manifest.ray_pods():
        has, declared = pod.requests().get("nvidia.com/gpu", 0.0), _seen(pod).get("GPU", 0.0)
        if has != declared:
            yield pod.where, f"GPU is {declared:g} to the autoscaler; the pod has {has:g}"


@rule
def resource_spelling(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """``cpu`` or ``gpu`` in a group's ``resources`` would be a resource of that very name."""
    for pod in manifest.ray_pods():
        for name in pod.group.get("resources") or {}:
            if name not in _STANDARD and name.lower() in {s.lower() for s in _STANDARD}:
                yield pod.where, f"resources.{name}: Ray's names are {sorted(_STANDARD)}"


@rule
def start_params_are_text(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """``rayStartParams`` become command-line arguments: text, and never an own address or port."""
    managed = {"head": (), "worker": ("head", "address")}
    for pod in manifest.ray_pods():
        for name, value in (pod.group.get("rayStartParams") or {}).items():
            if not isinstance(value, str):
                yield pod.where, f"rayStartParams.{name} is {value!r}, not text"
            if name in managed[pod.role]:
                yield pod.where, f"rayStartParams.{name} is the operator's to set"


@rule
def head_runs_no_work(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The head offers Ray no CPU, so that no replica can starve the GCS."""
    for pod in manifest.ray_pods():
        if pod.role == "head" and _seen(pod).get("CPU", 0.0):
            yield pod.where, "offers CPUs to Ray; declare resources CPU: '0'"


@rule
def growth_is_appended(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Only a group added at the end changes a cluster in place: plain groups come first."""
    for owner, cluster in manifest.ray_clusters():
        kinds = [
            bool(pod.accelerators())
            for pod in manifest.ray_pods()
            if pod.owner is owner and pod.role == "worker" and pod.cluster is cluster
        ]
        if kinds != sorted(kinds):
            yield title(owner), "plain worker groups must come before accelerated ones"


def _seen(pod: Workload) -> dict[str, float]:
    try:
        return pod.ray_resources()
    except Exception:  # told by readable_by_ray
        return {}
