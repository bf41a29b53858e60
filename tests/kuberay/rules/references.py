"""What one object says of another must be true."""

from __future__ import annotations

from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Object, Workload, title
from tests.kuberay.scheduling import satisfies

# Kinds without a namespace.
_CLUSTER_WIDE = frozenset(
    {
        "Namespace",
        "NodePool",
        "EC2NodeClass",
        "NodeOverlay",
        "PriorityClass",
        "StorageClass",
        "ClusterRole",
        "ClusterRoleBinding",
        "IngressClass",
        "IngressClassParams",
        "GatewayClass",
        "RuntimeClass",
        "ClusterTriggerAuthentication",
        "PersistentVolume",
        "CustomResourceDefinition",
    }
)
_BUILT_IN_PRIORITIES = frozenset({"system-cluster-critical", "system-node-critical"})


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector chooses ``labels``; an empty one chooses all."""
    pairs = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in pairs.items()) and all(
        satisfies(labels.get(e["key"]), e["operator"], e.get("values"))
        for e in selector.get("matchExpressions") or []
    )


def chosen(manifest: Manifest, selector: Object, namespace: str | None) -> list[Workload]:
    """The pods that a selector chooses."""
    return [
        pod
        for pod in manifest.workloads()
        if matches(selector, pod.labels) and pod.owner["metadata"].get("namespace") == namespace
    ]


@rule
def namespaces_exist(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every object is in a namespace that is made here; cluster-wide ones are in none."""
    made = {one["metadata"]["name"] for one in manifest.all("Namespace")}
    for one in manifest.objects:
        namespace = one["metadata"].get("namespace")
        if one["kind"] in _CLUSTER_WIDE:
            if namespace:
                yield title(one), f"is cluster-wide, but has namespace {namespace!r}"
        elif namespace not in made:
            yield title(one), f"namespace {namespace!r} is not made here ({sorted(made)})"


@rule
def service_accounts_exist(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every pod runs under an account of its own kind; default's rights belong to everyone."""
    made = {one["metadata"]["name"] for one in manifest.all("ServiceAccount")}
    for pod in manifest.workloads():
        name = pod.spec.get("serviceAccountName")
        # The operator makes the head's account when the autoscaler is on and none is named.
        if name is None and pod.spec.get("automountServiceAccountToken") is False:
            continue
        if name not in made:
            yield pod.where, f"serviceAccountName {name!r} is not made here ({sorted(made)})"


@rule
def tokens_where_needed(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Only a Ray head, whose autoscaler asks the API server, holds a Kubernetes token."""
    for pod in manifest.workloads():
        account = manifest.find("ServiceAccount", pod.spec.get("serviceAccountName", "")) or {}
        default = account.get("automountServiceAccountToken", True)
        if pod.role != "head" and pod.spec.get("automountServiceAccountToken", default):
            yield pod.where, "automountServiceAccountToken is not false"


@rule
def priorities_exist(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A pod with an unknown PriorityClass is refused."""
    made = {one["metadata"]["name"] for one in manifest.all("PriorityClass")}
    for pod in manifest.workloads():
        name = pod.spec.get("priorityClassName")
        if name and name not in made | _BUILT_IN_PRIORITIES:
            yield pod.where, f"priorityClassName {name!r} is not made here ({sorted(made)})"


@rule
def config_maps_exist(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """ConfigMaps and claims that pods mount or read are made here."""
    for pod in manifest.workloads():
        for kind, name in _mentioned(pod):
            if manifest.find(kind, name) is None:
                yield pod.where, f"{kind} {name!r} is not made here"


def _mentioned(pod: Workload) -> Iterator[tuple[str, str]]:
    for volume in pod.spec.get("volumes") or []:
        sources = [volume, *(volume.get("projected") or {}).get("sources", [])]
        for source in sources:
            if "configMap" in source and not source["configMap"].get("optional"):
                yield "ConfigMap", source["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod.containers:
        for one in container.get("envFrom") or []:
            if "configMapRef" in one:
                yield "ConfigMap", one["configMapRef"]["name"]
        for one in container.get("env") or []:
            reference = (one.get("valueFrom") or {}).get("configMapKeyRef")
            if reference:
                yield "ConfigMap", reference["name"]


@rule
def volumes_exist(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every mount has its volume."""
    for pod in manifest.workloads():
        made = {volume["name"] for volume in pod.spec.get("volumes") or []}
        made |= {c["metadata"]["name"] for c in pod.owner["spec"].get("volumeClaimTemplates", [])}
        for container in pod.containers:
            for mount in container.get("volumeMounts") or []:
                if mount["name"] not in made:
                    yield pod.where, f"volume {mount['name']!r} is mounted but not there"


@rule
def selectors_choose(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A budget, policy, Service or monitor that chooses no pod does nothing, silently."""
    for one in manifest.all("PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "Service"):
        spec = one["spec"]
        if one["kind"] == "Service":
            if not spec.get("selector"):
                continue
            selector: Object = {"matchLabels": spec["selector"]}
        else:
            selector = spec.get("podSelector" if one["kind"] == "NetworkPolicy" else "selector", {})
        if not chosen(manifest, selector, one["metadata"].get("namespace")):
            yield title(one), f"chooses no pod: {selector}"
    for one in manifest.all("ServiceMonitor"):
        services = manifest.all("Service")
        selector = one["spec"].get("selector", {})
        labels = [service["metadata"].get("labels", {}) for service in services]
        # The head's, which the operator makes.
        labels.append(
            {
                "app.kubernetes.io/name": "kuberay",
                "app.kubernetes.io/created-by": "kuberay-operator",
                "ray.io/node-type": "head",
            }
        )
        if not any(matches(selector, found) for found in labels):
            yield title(one), f"chooses no Service: {selector}"


@rule
def workloads_select_themselves(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A Deployment's selector matches its own pods, or it is refused."""
    for one in manifest.all("Deployment", "StatefulSet", "DaemonSet"):
        labels = one["spec"]["template"].get("metadata", {}).get("labels") or {}
        if not matches(one["spec"]["selector"], labels):
            yield title(one), "selector does not match the pods' labels"


@rule
def one_budget_a_pod(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Pods under two budgets cannot be evicted at all; one that allows nothing blocks drains."""
    budgets = manifest.all("PodDisruptionBudget")
    for pod in manifest.workloads():
        over = [b for b in budgets if pod in chosen(manifest, b["spec"].get("selector", {}),
                                                    b["metadata"].get("namespace"))]  # fmt: skip
        if len(over) > 1:
            yield pod.where, f"is under {[title(b) for b in over]}"
    for one in budgets:
        if "minAvailable" in one["spec"] and "maxUnavailable" in one["spec"]:
            yield title(one), "has both minAvailable and maxUnavailable"
        if "minAvailable" not in one["spec"] and "maxUnavailable" not in one["spec"]:
            yield title(one), "has neither minAvailable nor maxUnavailable"


@rule
def roles_are_narrow(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No wildcard in a role, and no role that is not ours bound cluster-wide."""
    for one in manifest.all("Role", "ClusterRole"):
        for entry in one.get("rules") or []:
            for key in ("apiGroups", "resources", "verbs"):
                if "*" in entry.get(key, []):
                    yield title(one), f"{key} has '*'"
    for one in manifest.all("ClusterRoleBinding", "RoleBinding"):
        if one["roleRef"]["name"] in {"cluster-admin", "admin", "edit"}:
            yield title(one), f"binds {one['roleRef']['name']}"
