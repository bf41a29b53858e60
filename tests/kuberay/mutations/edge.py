"""Mistakes at the edge: load balancer, KEDA, network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.kuberay.manifest import Manifest
from tests.kuberay.mutations.base import ALB, AbsentError, breaks, notes, serve, the


@breaks("health-check-truthful")
def health_that_only_says_alive(manifest: Manifest) -> None:
    notes(manifest)[ALB + "healthcheck-path"] = "/health"


@breaks("health-check-truthful")
def redirects_are_healthy(manifest: Manifest) -> None:
    notes(manifest)[ALB + "success-codes"] = "200-301"


@breaks("ingress-class")
def class_by_annotation(manifest: Manifest) -> None:
    notes(manifest)["kubernetes.io/ingress.class"] = "alb"


@breaks("idle-timeout-covers-a-picture")
def default_idle_timeout(manifest: Manifest) -> None:
    notes(manifest).pop(ALB + "load-balancer-attributes")


@breaks("idle-timeout-covers-a-picture")
def default_keep_alive(manifest: Manifest) -> None:
    serve(manifest, lambda config: config["http_options"].pop("keep_alive_timeout_s"))


@breaks("targets-are-pods")
def targets_are_nodes(manifest: Manifest) -> None:
    notes(manifest).pop(ALB + "target-type")


@breaks("deregistered-before-stopped")
def deregistration_outlasts_the_pod(manifest: Manifest) -> None:
    key, attribute = ALB + "target-group-attributes", "deregistration_delay.timeout_seconds"
    notes(manifest)[key] = f"{attribute}=3600"


@breaks("annotations-are-known")
def misspelt_annotation(manifest: Manifest) -> None:
    notes(manifest)[ALB + "healthcheck-interval"] = "10"


@breaks("encrypted")
def plain_http(manifest: Manifest) -> None:
    notes(manifest)[ALB + "listen-ports"] = '[{"HTTP": 80}]'


@breaks("backends-exist")
def backend_that_is_not_there(manifest: Manifest) -> None:
    rule = the(manifest, "Ingress")["spec"]["rules"][0]["http"]["paths"][0]
    rule["backend"]["service"] = {"name": "stable-diffusion", "port": {"number": 8000}}


def _forward(manifest: Manifest, change: Callable[[Any], None]) -> None:
    found = notes(manifest)
    key = next((name for name in found if name.startswith(ALB + "actions.")), None)
    if key is None:
        raise AbsentError("no weighted action")
    action = json.loads(found[key])
    change(action["forwardConfig"])
    found[key] = json.dumps(action)


@breaks("weighted-groups")
def weights_of_90(manifest: Manifest) -> None:
    _forward(manifest, lambda config: config["targetGroups"][0].update(weight=40))


@breaks("weighted-groups")
def clients_move_between_groups(manifest: Manifest) -> None:
    _forward(manifest, lambda config: config.pop("targetGroupStickinessConfig"))


@breaks("every-service-is-served")
def one_service_left_out(manifest: Manifest) -> None:
    _forward(manifest, lambda config: config["targetGroups"].pop())


@breaks("scaled-target-can-scale")
def keda_scales_a_ray_service(manifest: Manifest) -> None:
    target = the(manifest, "ScaledObject")["spec"]["scaleTargetRef"]
    target |= {"apiVersion": "ray.io/v1", "kind": "RayService", "name": "imagine"}


@breaks("scaled-target-can-scale")
def replicas_beside_keda(manifest: Manifest) -> None:
    the(manifest, "Deployment")["spec"]["replicas"] = 2


@breaks("triggers-complete")
def trigger_without_threshold(manifest: Manifest) -> None:
    for key in ("threshold", "targetMetricValue"):
        the(manifest, "ScaledObject")["spec"]["triggers"][0]["metadata"].pop(key, None)


@breaks("placeholders-give-way")
def placeholder_of_equal_rank(manifest: Manifest) -> None:
    the(manifest, "Deployment")
    for one in manifest.all("PriorityClass"):
        if one["value"] < 0:
            one["value"] = 0


@breaks("operator-reaches-head")
def operator_shut_out(manifest: Manifest) -> None:
    for one in manifest.all("NetworkPolicy"):
        one["spec"]["ingress"] = [
            entry for entry in one["spec"].get("ingress") or [] if "kuberay" not in str(entry)
        ]


@breaks("ray-nodes-talk")
def ray_ports_listed_one_by_one(manifest: Manifest) -> None:
    for one in manifest.all("NetworkPolicy"):
        for entry in one["spec"].get("ingress") or []:
            entry.setdefault("ports", [{"port": 6379}])


@breaks("dashboard-not-open")
def dashboard_open_to_all(manifest: Manifest) -> None:
    the(manifest, "NetworkPolicy")  # AbsentError without one
    namespace = the(manifest, "RayService")["metadata"]["namespace"]
    manifest.objects.append(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "dashboard", "namespace": namespace},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 8265}]}]},
        }
    )


@breaks("requests-reach-workers")
def load_balancer_shut_out(manifest: Manifest) -> None:
    for one in manifest.all("NetworkPolicy"):
        one["spec"]["ingress"] = [
            entry for entry in one["spec"].get("ingress") or [] if "ipBlock" not in str(entry)
        ]


@breaks("network-restricted")
def no_policies(manifest: Manifest) -> None:
    the(manifest, "NetworkPolicy")
    manifest.objects[:] = [one for one in manifest.objects if one["kind"] != "NetworkPolicy"]
