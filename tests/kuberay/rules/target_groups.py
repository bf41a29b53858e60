"""Which pods a load balancer sends requests to, with which weights, and how they leave it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Workload, title
from tests.kuberay.rules.ingress import actions, albs, attributes, backends
from tests.kuberay.rules.references import chosen, matches
from tests.kuberay.rules.workers import sleep_s

# Of weighted groups, as the AWS sample has them.
_SAMPLE = {
    "healthcheck-interval-seconds": "10",
    "healthcheck-timeout-seconds": "9",
    "healthy-threshold-count": "2",
    "unhealthy-threshold-count": "10",
}


def behind(manifest: Manifest, service: str) -> set[str]:
    """The RayServices whose workers a Service leads to."""
    own = manifest.find("Service", service)
    if own is None:
        owners = [one["metadata"]["name"] for one in manifest.all("RayService")]
        return {name for name in owners if service == f"{name}-serve-svc"}
    selector = {"matchLabels": own["spec"].get("selector") or {}}
    pods = chosen(manifest, selector, own["metadata"].get("namespace"))
    return {pod.owner["metadata"]["name"] for pod in pods if pod.role == "worker"}


def led_to(manifest: Manifest) -> dict[str, set[str]]:
    """Service that an ALB sends requests to -> the RayServices behind it."""
    found = {}
    for one, notes in albs(manifest):
        names = [(b.get("service") or {}).get("name", "") for b in backends(one)]
        for _, action in actions(notes):
            groups = (action.get("forwardConfig") or {}).get("targetGroups", [])
            names += [group.get("serviceName", "") for group in groups]
        found |= {name: behind(manifest, name) for name in names}
    return {name: services for name, services in found.items() if services}


def targets(manifest: Manifest) -> list[Workload]:
    """The worker groups that a load balancer sends requests to."""
    found = []
    for name in led_to(manifest):
        own = manifest.find("Service", name)
        selector = {"matchLabels": (own or {"spec": {}})["spec"].get("selector") or {}}
        found += [
            pod
            for pod in manifest.ray_pods()
            if pod.role == "worker"
            and (matches(selector, pod.labels) if own else name.startswith(owner_name(pod)))
        ]
    return found


def owner_name(pod: Workload) -> str:
    """The name of the object that makes the pod."""
    return str(pod.owner["metadata"]["name"])


@rule
def deregistered_before_stopped(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """preStop sleep ≥ deregistration delay: nothing is sent to a pod that is going."""
    for _, notes in albs(manifest):
        given = attributes(notes.get("target-group-attributes", ""))
        delay = float(given.get("deregistration_delay.timeout_seconds", 300))
        for pod in targets(manifest):
            waits = sleep_s(pod)
            if waits is None or waits < delay:
                yield (
                    pod.where,
                    f"preStop {waits} s: below the deregistration delay {delay:g} s",
                )


@rule
def every_service_is_served(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Each RayService gets requests, through a target group of its own."""
    found = led_to(manifest)
    for name, services in found.items():
        if len(services) > 1:
            yield f"Service/{name}", f"mixes the workers of {sorted(services)}"
    reached = {name for services in found.values() for name in services}
    for one in manifest.all("RayService") if list(albs(manifest)) else []:
        if one["metadata"]["name"] not in reached:
            yield title(one), f"no Ingress leads to it; they lead to {found}"


@rule
def weighted_groups(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Weights over all RayServices sum to 100; stickiness of 200 s, and of each group, is on."""
    services = {one["metadata"]["name"] for one in manifest.all("RayService")}
    for one, notes in albs(manifest):
        weighted = [a for _, a in actions(notes) if a.get("type") == "forward"]
        if len(services) > 1 and not weighted:
            yield title(one), f"does not spread over {sorted(services)}"
        for action in weighted:
            config = action.get("forwardConfig") or {}
            weights = {g.get("serviceName"): g.get("weight") for g in config["targetGroups"]}
            numbers = [w for w in weights.values() if isinstance(w, int)]
            reached = set().union(*(behind(manifest, name) for name in weights))
            if reached != services or sum(numbers) != 100 or len(numbers) < len(weights):
                yield title(one), f"weights {weights}: over all of {sorted(services)}, sum 100"
            sticky = config.get("targetGroupStickinessConfig") or {}
            if sticky != {"enabled": True, "durationSeconds": 200}:
                yield title(one), f"targetGroupStickinessConfig {sticky}: enabled for 200 s"
            given = attributes(notes.get("target-group-attributes", ""))
            if sticky.get("enabled") and given.get("stickiness.enabled") != "true":
                yield title(one), "target-group-attributes: stickiness.enabled=true goes with it"
            for key, value in _SAMPLE.items():
                if notes.get(key) != value:
                    yield title(one), f"{key} {notes.get(key)!r}: the documented setting is {value}"
