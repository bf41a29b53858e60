"""What the KubeRay operator v1.7.0 refuses although the schema takes it.

Read in the operator's ``validation.go``; published RayServices fail here, not in the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Object, title

_START_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
_DURATION = re.compile(r"(\d+(\.\d+)?(ms|s|m|h))+|\d+")
_AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"


def env_names(container: Object) -> set[str]:
    """Names of the environment variables that a container sets."""
    return {one["name"] for one in container.get("env") or []}


def _head_env(cluster: Object) -> set[str]:
    return env_names(cluster["headGroupSpec"]["template"]["spec"]["containers"][0])


def is_v2(cluster: Object) -> bool:
    """Whether autoscaler v2 is asked for in so many words."""
    options = cluster.get("autoscalerOptions") or {}
    return bool(cluster.get("enableInTreeAutoscaling")) and options.get("version") == "v2"


@rule
def ray_api_version(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """``ray.io/v1alpha1`` goes with KubeRay 1.9."""
    for one in manifest.objects:
        group, _, version = one["apiVersion"].partition("/")
        if group == "ray.io" and version != "v1":
            yield title(one), f"apiVersion {one['apiVersion']}: use ray.io/v1"


@rule
def ray_service_name(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A DNS-1035 label of at most 47 characters, as names are derived from it."""
    for one in manifest.all("RayService"):
        name = one["metadata"]["name"]
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name):
            yield title(one), f"{len(name)} characters; at most 47, starting with a letter"


@rule
def head_service_name(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The operator names the head service; a name of one's own gets InvalidRayServiceSpec."""
    for owner, cluster in manifest.ray_clusters():
        service = cluster["headGroupSpec"].get("headService") or {}
        if owner["kind"] == "RayService" and service.get("metadata", {}).get("name"):
            yield title(owner), "headGroupSpec.headService.metadata.name must not be set"


@rule
def resources_said_once(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A group's ``resources`` and the same in ``rayStartParams`` are refused together."""
    for pod in manifest.ray_pods():
        params = pod.group.get("rayStartParams") or {}
        both = [key for key in _START_RESOURCES if params.get(key)]
        if pod.group.get("resources") and both:
            yield pod.where, f"both resources and rayStartParams {both} are set; leave one out"


@rule
def labels_not_as_start_param(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """``rayStartParams.labels`` is refused; groups have ``labels``, in Kubernetes' syntax."""
    for pod in manifest.ray_pods():
        if "labels" in (pod.group.get("rayStartParams") or {}):
            yield pod.where, "rayStartParams.labels is refused; use the group's labels"
        for key, value in (pod.group.get("labels") or {}).items():
            if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(str(value))):
                yield pod.where, f"label {key}: {value!r} is not in Kubernetes' syntax"


@rule
def replica_bounds(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """0 ≤ min ≤ replicas ≤ max, all three given; no group suspended."""
    for pod in manifest.ray_pods():
        if pod.role != "worker":
            continue
        low, now, high = (pod.group.get(key) for key in ("minReplicas", "replicas", "maxReplicas"))
        if low is None or now is None or high is None:
            yield pod.where, "minReplicas, replicas and maxReplicas must all be set"
        elif not 0 <= low <= now <= high or high < 1:
            yield pod.where, f"min {low}, replicas {now}, max {high} are not in order"
        if pod.group.get("suspend"):
            yield pod.where, "suspend cannot be used with the autoscaler"


@rule
def group_names(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Worker groups' names are DNS labels, each used once."""
    for owner, cluster in manifest.ray_clusters():
        names = [group["groupName"] for group in cluster.get("workerGroupSpecs", [])]
        for name in names:
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
                yield title(owner), f"group name {name!r} is not a DNS label"
        if len(set(names)) < len(names):
            yield title(owner), f"group names {names}: one is there twice"


@rule
def idle_timeout_needs_v2(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A group's ``idleTimeoutSeconds`` needs ``autoscalerOptions.version: v2``, spelt out."""
    for pod in manifest.ray_pods():
        if "idleTimeoutSeconds" in pod.group and not is_v2(pod.cluster):
            yield pod.where, "idleTimeoutSeconds needs autoscalerOptions.version: v2"


@rule
def restart_policy_never(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """With autoscaler v2 ``restartPolicy`` is Never or left out."""
    for pod in manifest.ray_pods():
        policy = pod.spec.get("restartPolicy", "Never")
        if is_v2(pod.cluster) and policy != "Never":
            yield pod.where, f"restartPolicy {policy}: leave it out with autoscaler v2"


@rule
def gcs_options_alone(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """GCS fault tolerance is said in ``gcsFaultToleranceOptions`` and nowhere else."""
    for owner, cluster in manifest.ray_clusters():
        head = cluster["headGroupSpec"]
        params = head.get("rayStartParams") or {}
        annotations = owner["metadata"].get("annotations") or {}
        bad = [f"env {n}" for n in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME")
               if n in _head_env(cluster)]  # fmt: skip
        bad += [f"rayStartParams.{n}" for n in ("redis-password", "redis-username") if n in params]
        bad += [
            f"annotation {name}"
            for name in ("ray.io/ft-enabled", "ray.io/external-storage-namespace")
            if name in annotations
        ]
        for what in bad:
            yield title(owner), f"{what} is refused; use gcsFaultToleranceOptions"
        options = cluster.get("gcsFaultToleranceOptions") or {}
        if options.get("backend", "redis") == "redis" and "storage" in options:
            yield title(owner), "gcsFaultToleranceOptions.storage is for the rocksdb backend"
        if options.get("backend") == "rocksdb":
            yield title(owner), "the rocksdb backend is behind an alpha gate; use redis"


@rule
def token_authentication(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Ray's own token, explicitly: unset means none, and the dashboard runs code."""
    for owner, cluster in manifest.ray_clusters():
        options = cluster.get("authOptions") or {}
        if options.get("mode") != "token":
            yield title(owner), f"authOptions.mode is {options.get('mode')!r}; set it to token"
        if options.get("enableK8sTokenAuth"):
            yield title(owner), "authOptions.enableK8sTokenAuth is not supported for RayService"
        version = re.fullmatch(r"(\d+)\.(\d+)\.\d+", str(cluster.get("rayVersion", "")))
        if not version or (int(version[1]), int(version[2])) < (2, 52):
            yield title(owner), f"rayVersion {cluster.get('rayVersion')!r}: token needs ≥ 2.52.0"


@rule
def alpha_gates(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Fields behind gates that are off are refused."""
    for owner, cluster in manifest.ray_clusters():
        for name in ("networkPolicy", "tlsOptions", "historyServerOptions"):
            if name in cluster:
                yield title(owner), f"{name} is behind an alpha gate that is off by default"
        if _AUTOSCALER_V2 in _head_env(cluster):
            yield title(owner), f"env {_AUTOSCALER_V2}: use autoscalerOptions.version alone"


@rule
def upgrade_strategy(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """``None`` ignores changes; the incremental one has needs, and leaves no serve Service."""
    for one in manifest.all("RayService"):
        strategy = one["spec"].get("upgradeStrategy") or {}
        kind = strategy.get("type", "NewCluster")
        if kind == "None":
            yield title(one), "upgradeStrategy None ignores every change of the spec"
        if kind != "NewClusterWithIncrementalUpgrade":
            continue
        options = strategy.get("clusterUpgradeOptions") or {}
        for key in ("gatewayClassName", "stepSizePercent", "intervalSeconds"):
            if not options.get(key):
                yield title(one), f"clusterUpgradeOptions.{key} is required"
        if (options.get("stepSizePercent") or 0) > options.get("maxSurgePercent", 100):
            yield title(one), "stepSizePercent is above maxSurgePercent"
        service = f"{one['metadata']['name']}-serve-svc"
        if any(service in str(other.get("spec")) for other in manifest.all("Ingress")):
            yield title(one), f"with an incremental upgrade there is no Service {service}"


@rule
def deprecated_fields(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Fields that are taken and do nothing."""
    for one in manifest.all("RayService"):
        for name in ("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold"):
            if name in one["spec"]:
                yield title(one), f"{name} is ignored since KubeRay 1.3"


@rule
def initializing_timeout(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Running out is final, so it must be longer than the slowest cold start (30 min)."""
    for one in manifest.all("RayService"):
        given = (one["metadata"].get("annotations") or {}).get("ray.io/initializing-timeout")
        if given is None:
            continue
        if not _DURATION.fullmatch(given):
            yield title(one), f"ray.io/initializing-timeout {given!r} is not a duration"
        elif seconds(given) < 1800:
            yield title(one), f"ray.io/initializing-timeout {given}: below 30m, and final"


def seconds(text: str) -> float:
    """A Go duration or a number of seconds, in seconds."""
    unit = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}
    parts = re.findall(r"([\d.]+)(ms|s|m|h|)", text)
    return sum(float(amount) * unit[suffix] for amount, suffix in parts)
