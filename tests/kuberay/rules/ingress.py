"""AWS Load Balancer Controller v3.5 Ingresses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.kuberay.alb_annotations import ANNOTATIONS, WITH_SUFFIX
from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Object, Workload, title
from tests.kuberay.rules.references import chosen, matches
from tests.kuberay.rules.serving import configs, settings
from tests.kuberay.rules.workers import PROXY_HEALTH, SERVE_PORT, sleep_s

PREFIX = "alb.ingress.kubernetes.io/"
_SAMPLE = {
    "healthcheck-interval-seconds": "10",
    "healthcheck-timeout-seconds": "9",
    "healthy-threshold-count": "2",
    "unhealthy-threshold-count": "10",
}
# 200 when the proxy, or some pool, can serve now. /health tells only that a process lives.
_TRUTHFUL = (PROXY_HEALTH, "/readiness")


def albs(manifest: Manifest) -> Iterator[tuple[Object, dict[str, str]]]:
    """Ingresses of class alb, with their annotations without the prefix."""
    for one in manifest.all("Ingress"):
        notes = one["metadata"].get("annotations") or {}
        old = notes.get("kubernetes.io/ingress.class")
        if "alb" in {one["spec"].get("ingressClassName"), old}:
            yield (
                one,
                {
                    key.removeprefix(PREFIX): value
                    for key, value in notes.items()
                    if key.startswith(PREFIX)
                },
            )


def attributes(text: str) -> dict[str, str]:
    """``a=1,b=2`` as a mapping."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {key.strip(): value.strip() for key, _, value in pairs}


def actions(notes: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Action name -> its JSON, where it is JSON."""
    for key, text in notes.items():
        if key.startswith("actions."):
            try:
                yield key.removeprefix("actions."), json.loads(text)
            except json.JSONDecodeError:
                continue  # told by annotations_are_known


@rule
def ingress_class(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """``ingressClassName``; the annotation for it has been deprecated since Kubernetes 1.18."""
    for one in manifest.all("Ingress"):
        if "kubernetes.io/ingress.class" in (one["metadata"].get("annotations") or {}):
            yield title(one), "annotation kubernetes.io/ingress.class; use ingressClassName"


@rule
def annotations_are_known(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """One with a typing error is ignored; one with broken JSON fails the whole Ingress."""
    for one, notes in albs(manifest):
        for key, text in notes.items():
            stem = key.partition(".")[0] if key.startswith(WITH_SUFFIX) else key
            if stem not in ANNOTATIONS:
                yield title(one), f"annotation {PREFIX}{key} is not one of the controller's"
            if key.startswith(("actions.", "conditions.", "transforms.")) or key == "listen-ports":
                try:
                    json.loads(text)
                except json.JSONDecodeError as error:
                    yield title(one), f"annotation {key} is not JSON: {error}"


@rule
def health_check_truthful(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The load balancer asks whether requests can be served; only 200 means yes."""
    for one, notes in albs(manifest):
        path = notes.get("healthcheck-path")
        if path not in _TRUTHFUL:
            yield title(one), f"healthcheck-path {path!r} is not one of {_TRUTHFUL}"
        if notes.get("success-codes", "200") != "200":
            yield title(one), f"success-codes {notes['success-codes']!r}: 200 alone"
        if notes.get("healthcheck-port", "traffic-port") not in {
            "traffic-port",
            str(SERVE_PORT),
        }:
            yield title(one), f"healthcheck-port {notes['healthcheck-port']!r}"
        interval = float(notes.get("healthcheck-interval-seconds", 15))
        if float(notes.get("healthcheck-timeout-seconds", 5)) >= interval:
            yield title(one), "healthcheck-timeout-seconds is not below the interval"


@rule
def targets_are_pods(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Target type ip: else targets are nodes, whatever their pods' readiness."""
    for one, notes in albs(manifest):
        if notes.get("target-type") != "ip":
            yield title(one), f"target-type {notes.get('target-type')!r}, not 'ip'"


@rule
def idle_timeout_covers_a_picture(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """request_timeout_s < idle timeout < the proxy's keep-alive.

    Else the slowest picture is cut off, or a connection that the proxy just closed gets a 502.
    """
    for one, notes in albs(manifest):
        given = attributes(notes.get("load-balancer-attributes", ""))
        idle = float(given.get("idle_timeout.timeout_seconds", 60))
        for service, config in configs(manifest):
            parsed, http = settings(config), config.get("http_options") or {}
            if parsed and idle <= parsed.limits.request_timeout_s:
                limit = parsed.limits.request_timeout_s
                yield (
                    title(one),
                    f"idle timeout {idle:g} s is not above request_timeout_s {limit:g}",
                )
            if http.get("keep_alive_timeout_s", 90) <= idle:
                yield (
                    title(service),
                    f"keep_alive_timeout_s is not above the idle timeout {idle:g} s",
                )


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
def encrypted(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """HTTPS, with plain HTTP sent there; and what is open to the internet says so."""
    for one, notes in albs(manifest):
        text = notes.get("listen-ports", "[]")
        if not re.search(r'"HTTPS"\s*:\s*443', text):
            yield title(one), f"listen-ports {text} has no HTTPS 443"
        if '"HTTP"' in text and notes.get("ssl-redirect") != "443":
            yield title(one), "plain HTTP is not redirected: ssl-redirect 443"
        if notes.get("scheme") not in {"internal", "internet-facing"}:
            yield title(one), f"scheme {notes.get('scheme')!r}"


@rule
def backends_exist(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Rules and actions lead to Services that are there, on their ports."""
    made = {s["metadata"]["name"]: _ports(s) for s in manifest.all("Service")}
    for one in manifest.all("RayService"):
        name = f"{one['metadata']['name']}-serve-svc"
        made[name] = {"serve": SERVE_PORT, SERVE_PORT: SERVE_PORT}
    alb = {title(one): notes for one, notes in albs(manifest)}
    for one in manifest.all("Ingress"):
        named = dict(actions(alb.get(title(one), {})))
        for backend in _backends(one):
            service = backend.get("service") or {}
            port = service.get("port") or {}
            name, chosen = service.get("name"), port.get("name", port.get("number"))
            if chosen == "use-annotation":
                if name not in named:
                    yield title(one), f"no annotation {PREFIX}actions.{name}"
            elif name not in made or chosen not in made[name]:
                yield title(one), f"Service {name} has no port {chosen}; there are {made}"
        for action in named.values():
            for group in (action.get("forwardConfig") or {}).get("targetGroups", []):
                name, chosen = group.get("serviceName"), group.get("servicePort")
                chosen = int(chosen) if str(chosen).isdigit() else chosen
                if name not in made or chosen not in made[name]:
                    yield title(one), f"target group: Service {name} has no port {chosen}"


def _ports(service: Object) -> dict[Any, int]:
    found = {}
    for port in service["spec"].get("ports", []):
        found[port["port"]] = found[port.get("name")] = port["port"]
    return found


def _backends(one: Object) -> Iterator[Object]:
    if "defaultBackend" in one["spec"]:
        yield one["spec"]["defaultBackend"]
    for entry in one["spec"].get("rules") or []:
        for path in (entry.get("http") or {}).get("paths", []):
            yield path["backend"]


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
        names = [(b.get("service") or {}).get("name", "") for b in _backends(one)]
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
            # As the AWS sample has them.
            for key, value in _SAMPLE.items():
                if notes.get(key) != value:
                    yield title(one), f"{key} {notes.get(key)!r}: the documented setting is {value}"
