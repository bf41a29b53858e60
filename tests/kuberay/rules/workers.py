"""Ray pods: ports, probes, drain, what keeps the service up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import ray

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Object, Workload, strings, title

PROXY_HEALTH = "/-/healthz"
SERVE_PORT = 8000


def ports(container: Object) -> dict[str, int]:
    """Port name -> number."""
    return {p.get("name", ""): p["containerPort"] for p in container.get("ports") or []}


@rule
def serve_port_named(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The serve Service needs a head port named ``serve``."""
    for pod in manifest.ray_pods():
        found = ports(pod.containers[0])
        if pod.role == "head" and found.get("serve") != SERVE_PORT:
            yield pod.where, f"no port named serve with {SERVE_PORT}; there are {found}"
        if pod.role == "worker" and found.get("serve", SERVE_PORT) != SERVE_PORT:
            yield pod.where, f"port serve is {found['serve']}, not {SERVE_PORT}"


@rule
def worker_readiness(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """An HTTP probe of the proxy: the operator's needs wget and gives up after one failure."""
    for pod in manifest.ray_pods():
        if pod.role != "worker":
            continue
        probe = pod.containers[0].get("readinessProbe") or {}
        get = probe.get("httpGet") or {}
        port = ports(pod.containers[0]).get(str(get.get("port")), get.get("port"))
        if get.get("path") != PROXY_HEALTH or port != SERVE_PORT:
            yield pod.where, f"no readinessProbe httpGet {PROXY_HEALTH} on {SERVE_PORT}: {probe}"
        elif probe.get("failureThreshold", 3) < 2:
            yield pod.where, "one failure makes the pod unready; failureThreshold must be ≥ 2"


def sleep_s(pod: Workload) -> float | None:
    """Seconds that the Ray container waits before it is stopped, if it does."""
    hook = ((pod.containers[0].get("lifecycle") or {}).get("preStop")) or {}
    if "sleep" in hook:
        return float(hook["sleep"]["seconds"])
    command = " ".join((hook.get("exec") or {}).get("command", []))
    words = command.split()
    for word, following in itertools.pairwise(words):
        if word.endswith("sleep") and following.rstrip("s;").isdigit():
            return float(following.rstrip("s;"))
    return None


@rule
def drained_before_stopped(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Pods that serve wait for the load balancer to leave them, then have time to finish."""
    for pod in manifest.ray_pods():
        if pod.role != "worker":
            continue
        waits, grace = sleep_s(pod), pod.spec.get("terminationGracePeriodSeconds")
        if waits is None:
            yield pod.where, "no preStop sleep"
        elif grace is None or grace <= waits:
            yield pod.where, f"terminationGracePeriodSeconds {grace}: not above preStop {waits:g} s"


@rule
def always_one_to_serve(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A plain worker that is always there: with none the Service has a window without endpoints."""
    for owner, _ in manifest.ray_clusters():
        if owner["kind"] != "RayService":
            continue
        steady = [
            pod
            for pod in manifest.ray_pods()
            if pod.owner is owner and pod.role == "worker" and not pod.accelerators()
        ]
        if not any((pod.group.get("minReplicas") or 0) >= 1 for pod in steady):
            yield title(owner), "no worker group without accelerators has minReplicas ≥ 1"


@rule
def head_out_of_service(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Requests do not go through the head: it holds the cluster's state."""
    for one in manifest.all("RayService"):
        if one["spec"].get("excludeHeadPodFromServeSvc") is not True:
            yield title(one), "set excludeHeadPodFromServeSvc: true"
        if one["spec"].get("suspend"):
            yield title(one), "suspend deletes the service"


@rule
def head_stays(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Karpenter must not move the head to save money."""
    for pod in manifest.ray_pods():
        if pod.role == "head" and pod.annotations.get("karpenter.sh/do-not-disrupt") != "true":
            yield pod.where, 'no annotation karpenter.sh/do-not-disrupt: "true"'


def in_cloud(manifest: Manifest) -> bool:
    """Whether the manifest is for a real cluster, not for a machine of one's own."""
    return bool(manifest.all("NodePool", "Ingress"))


@rule
def gcs_fault_tolerance(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """With Redis a restarted head does not take the service down; its password is a secret."""
    for owner, cluster in manifest.ray_clusters():
        options = cluster.get("gcsFaultToleranceOptions") or {}
        if not in_cloud(manifest):
            continue
        if not options.get("redisAddress"):
            yield title(owner), "gcsFaultToleranceOptions.redisAddress is not set"
        elif "secretKeyRef" not in (options.get("redisPassword") or {}).get("valueFrom", {}):
            yield title(owner), "gcsFaultToleranceOptions.redisPassword is not from a Secret"
        elif options.get("externalStorageNamespace") and owner["kind"] == "RayService":
            yield title(owner), "externalStorageNamespace: an upgrade's two clusters would share it"


@rule
def old_cluster_outlives_requests(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """After a cut-over the old cluster serves what it has: longer than the drain takes."""
    for one in manifest.all("RayService"):
        delay = one["spec"].get("rayClusterDeletionDelaySeconds", 60)
        grace = [
            pod.spec.get("terminationGracePeriodSeconds", 30)
            for pod in manifest.ray_pods()
            if pod.owner is one and pod.role == "worker"
        ]
        if delay < max(grace, default=0):
            yield (
                title(one),
                f"rayClusterDeletionDelaySeconds {delay}: below the grace {max(grace)}",
            )


@rule
def same_ray_everywhere(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """One Ray in a cluster, the one that this package is tested with."""
    for owner, cluster in manifest.ray_clusters():
        if cluster.get("rayVersion") != ray.__version__:
            yield title(owner), f"rayVersion {cluster.get('rayVersion')!r} is not {ray.__version__}"


@rule
def dashboard_private(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Who reaches the dashboard or the client port runs code."""
    for owner, cluster in manifest.ray_clusters():
        if cluster["headGroupSpec"].get("enableIngress"):
            yield title(owner), "headGroupSpec.enableIngress opens the dashboard"
        service = (cluster["headGroupSpec"].get("headService") or {}).get("spec") or {}
        kinds = {service.get("type"), cluster["headGroupSpec"].get("serviceType")}
        if kinds & {"LoadBalancer", "NodePort"}:
            yield title(owner), f"the head's Service is {sorted(k for k in kinds if k)}"
    for one in manifest.all("Ingress", "HTTPRoute"):
        if any("head-svc" in text or text == "dashboard" for _, text in strings(one["spec"])):
            yield title(one), "leads to a Ray head"
    for one in manifest.all("Service"):
        numbers = {p["port"] for p in one["spec"].get("ports", [])}
        if one["spec"].get("type") in {"LoadBalancer", "NodePort"}:
            yield title(one), f"type {one['spec']['type']} opens {sorted(numbers)}"
