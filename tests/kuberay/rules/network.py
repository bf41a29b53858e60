"""NetworkPolicies that let through what must get through, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Object, Workload
from tests.kuberay.rules.references import matches
from tests.kuberay.rules.target_groups import targets
from tests.kuberay.rules.workers import SERVE_PORT, ports

DASHBOARD = 8265
OPERATOR = "kuberay"


def entries(manifest: Manifest, pod: Workload, direction: str) -> list[Object] | None:
    """The rules of all policies for ``pod``; ``None`` where no policy restricts it."""
    namespace = pod.owner["metadata"].get("namespace")
    over = [
        one["spec"]
        for one in manifest.all("NetworkPolicy")
        if one["metadata"].get("namespace") == namespace
        and matches(one["spec"].get("podSelector", {}), pod.labels)
        and direction in one["spec"].get("policyTypes", ["Ingress"])
    ]
    if not over:
        return None
    return [entry for spec in over for entry in spec.get(direction.lower()) or []]


def _port_open(entry: Object, pod: Workload, port: int) -> bool:
    listed = entry.get("ports")
    if not listed:
        return True
    named = ports(pod.containers[0])
    for one in listed:
        number = one.get("port")
        number = named.get(number, number) if isinstance(number, str) else number
        if number is None or number == port or int(number) <= port <= one.get("endPort", -1):
            return True
    return False


def _from_peer(entry: Object, key: str, manifest: Manifest, peer: Workload) -> bool:
    if not entry.get(key):
        return True
    return any(
        "podSelector" in one
        and matches(one["podSelector"], peer.labels)
        and ("namespaceSelector" not in one or not one["namespaceSelector"])
        for one in entry[key]
    )


@rule
def network_restricted(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every pod of ours is under a policy for incoming traffic."""
    for pod in manifest.workloads():
        if entries(manifest, pod, "Ingress") is None:
            yield pod.where, "no NetworkPolicy restricts who reaches it"


@rule
def ray_nodes_talk(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Ray pods of one cluster use many ports, some random: all open among themselves."""
    for pod in manifest.ray_pods():
        for direction, key in (("Ingress", "from"), ("Egress", "to")):
            found = entries(manifest, pod, direction)
            if found is None:
                continue
            for peer in manifest.ray_pods():
                if peer.owner is pod.owner and not any(
                    not entry.get("ports") and _from_peer(entry, key, manifest, peer)
                    for entry in found
                ):
                    yield pod.where, f"{direction.lower()} on all ports: {peer.where} is kept out"


@rule
def operator_reaches_head(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The operator sends serveConfigV2 to the head's dashboard, from its own namespace."""
    for pod in manifest.ray_pods():
        found = entries(manifest, pod, "Ingress")
        if pod.role != "head" or found is None:
            continue
        if not any(
            _port_open(entry, pod, DASHBOARD)
            and (
                not entry.get("from")
                or any("namespaceSelector" in one and OPERATOR in str(one) for one in entry["from"])
            )
            for entry in found
        ):
            yield pod.where, f"the operator ({OPERATOR}) cannot reach port {DASHBOARD}"


@rule
def dashboard_not_open(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No rule opens the dashboard, GCS or client port to everyone, or to addresses."""
    for pod in manifest.ray_pods():
        for entry in entries(manifest, pod, "Ingress") or []:
            wide = not entry.get("from") or any("ipBlock" in one for one in entry["from"])
            wide = wide or any(one == {"namespaceSelector": {}} for one in entry.get("from", []))
            opened = [port for port in (DASHBOARD, 6379, 10001) if _port_open(entry, pod, port)]
            if wide and opened and pod.role == "head":
                yield pod.where, f"ports {opened} are open to {entry.get('from') or 'everyone'}"


@rule
def requests_reach_workers(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The load balancer's addresses reach the serve port of the pods that it sends requests to."""
    for pod in targets(manifest):
        found = entries(manifest, pod, "Ingress")
        if found is not None and not any(
            _port_open(entry, pod, SERVE_PORT)
            and (not entry.get("from") or any("ipBlock" in one for one in entry["from"]))
            for entry in found
        ):
            yield pod.where, f"no NetworkPolicy lets the load balancer reach port {SERVE_PORT}"


@rule
def names_resolve(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Where outgoing traffic is restricted, DNS is not."""
    for pod in manifest.workloads():
        found = entries(manifest, pod, "Egress")
        if found is None:
            continue
        open_dns = any(
            not entry.get("ports")
            or any(p.get("port") == 53 and p.get("protocol") == "UDP" for p in entry["ports"])
            for entry in found
            if not entry.get("to")
            or any("namespaceSelector" in t or "ipBlock" in t for t in entry["to"])
        )
        if not open_dns:
            yield pod.where, "egress is restricted, but UDP 53 is not allowed"
