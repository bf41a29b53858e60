"""AWS Load Balancer Controller v3.5 Ingresses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.kuberay.alb_annotations import ANNOTATIONS, WITH_SUFFIX
from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Object, title
from tests.kuberay.rules.serving import configs, settings
from tests.kuberay.rules.workers import PROXY_HEALTH, SERVE_PORT

PREFIX = "alb.ingress.kubernetes.io/"
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
        for backend in backends(one):
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


def backends(one: Object) -> Iterator[Object]:
    """Every backend of an Ingress."""
    if "defaultBackend" in one["spec"]:
        yield one["spec"]["defaultBackend"]
    for entry in one["spec"].get("rules") or []:
        for path in (entry.get("http") or {}).get("paths", []):
            yield path["backend"]
