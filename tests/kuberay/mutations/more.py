"""Further mistakes, so that every rule has one."""

from __future__ import annotations

import json

from tests.kuberay.manifest import Manifest
from tests.kuberay.mutations.base import (
    GPU,
    NEURON,
    AbsentError,
    breaks,
    cluster,
    container,
    group,
    pool,
    requirement,
    the,
)


@breaks("alerts-say-what-to-do")
def alert_without_severity(manifest: Manifest) -> None:
    for one in manifest.all("PrometheusRule"):
        for entry in one["spec"]["groups"][0]["rules"]:
            if "alert" in entry:
                entry.pop("labels")
                return
    raise AbsentError("no alert")


@breaks("alpha-gates")
def network_policy_of_the_operator(manifest: Manifest) -> None:
    cluster(manifest)["networkPolicy"] = {"mode": "DenyAll"}


@breaks("amd64-only")
def any_architecture(manifest: Manifest) -> None:
    spec = pool(manifest, "cpu")["template"]["spec"]
    spec["requirements"] = [
        {"key": "karpenter.k8s.aws/instance-category", "operator": "In", "values": ["m"]}
    ]


@breaks("autoscaler-v2")
def no_autoscaler(manifest: Manifest) -> None:
    cluster(manifest)["enableInTreeAutoscaling"] = False


@breaks("config-maps-exist")
def config_map_of_another_name(manifest: Manifest) -> None:
    container(group(manifest))["envFrom"] = [{"configMapRef": {"name": "settings"}}]


@breaks("device-users-have-nodes")
def job_for_hardware_without_a_pool(manifest: Manifest) -> None:
    spec = the(manifest, "Job")["spec"]["template"]["spec"]
    spec["nodeSelector"] = {"karpenter.k8s.aws/instance-family": "g4dn"}


@breaks("gpus-declared")
def gpu_forgotten(manifest: Manifest) -> None:
    group(manifest, GPU)["resources"]["GPU"] = "0"


@breaks("group-names")
def two_groups_of_one_name(manifest: Manifest) -> None:
    for one in cluster(manifest)["workerGroupSpecs"]:
        one["groupName"] = "workers"


@breaks("images-have-room")
def small_root_volume(manifest: Manifest) -> None:
    spec = the(manifest, "EC2NodeClass")["spec"]
    spec["blockDeviceMappings"][0]["ebs"]["volumeSize"] = "60Gi"


@breaks("json-in-config-maps")
def dashboard_cut_off(manifest: Manifest) -> None:
    namespace = the(manifest, "RayService")["metadata"]["namespace"]
    metadata = {"name": "dashboard", "namespace": namespace}
    data = {"dashboard.json": '{"panels": ['}
    manifest.objects.append(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    )


@breaks("names-are-labels")
def name_with_underscores(manifest: Manifest) -> None:
    pool(manifest)  # AbsentError without one
    the(manifest, "NodePool")["metadata"]["name"] = "gpu_pool"


@breaks("names-resolve")
def dns_shut_out(manifest: Manifest) -> None:
    namespace = the(manifest, "RayService")["metadata"]["namespace"]
    manifest.objects[:] = [one for one in manifest.objects if one["kind"] != "NetworkPolicy"]
    manifest.objects.append(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "egress", "namespace": namespace},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"podSelector": {}}]}, {"ports": [{"port": 443}]}],
            },
        }
    )


@breaks("no-remote-manifests")
def manifests_from_a_branch(manifest: Manifest) -> None:
    """As the AWS sample's capacity checker does."""
    found = container(the(manifest, "Job"))
    url = "https://raw.githubusercontent.com/example/example/master/ingress.yaml"
    found["args"] = ["kubectl apply -f " + url]


@breaks("one-budget-a-pod")
def second_budget(manifest: Manifest) -> None:
    copied = json.loads(json.dumps(the(manifest, "PodDisruptionBudget")))
    copied["metadata"]["name"] = "another"
    manifest.objects.append(copied)


@breaks("one-family-a-pool")
def pool_that_nobody_uses(manifest: Manifest) -> None:
    for found in cluster(manifest)["workerGroupSpecs"]:
        if NEURON in found["template"]["spec"]["containers"][0]["resources"]["limits"]:
            cluster(manifest)["workerGroupSpecs"].remove(found)
            return
    raise AbsentError("no Neuron group")


@breaks("priorities-for-the-named")
def priority_for_everybody(manifest: Manifest) -> None:
    the(manifest, "PriorityClass")["globalDefault"] = True


@breaks("replica-bounds")
def more_than_the_most(manifest: Manifest) -> None:
    group(manifest)["replicas"] = 99


@breaks("roles-are-narrow")
def role_with_wildcards(manifest: Manifest) -> None:
    namespace = the(manifest, "RayService")["metadata"]["namespace"]
    manifest.objects.append(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "all", "namespace": namespace},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
        }
    )


@breaks("start-params-are-text")
def worker_told_where_its_head_is(manifest: Manifest) -> None:
    group(manifest)["rayStartParams"] = {"address": "imagine-head-svc:6379"}


@breaks("volumes-exist")
def mount_without_a_volume(manifest: Manifest) -> None:
    found = container(group(manifest))
    found["volumeMounts"] = [{"name": "weights", "mountPath": "/weights"}]


@breaks("workloads-select-themselves")
def selector_of_other_pods(manifest: Manifest) -> None:
    the(manifest, "Deployment")["spec"]["selector"] = {"matchLabels": {"app": "other"}}


@breaks("whole-neuron-nodes")
def part_of_a_neuron_node(manifest: Manifest) -> None:
    requirement(pool(manifest, NEURON), "instance-size")["values"] = ["24xlarge"]
    for part in container(group(manifest, NEURON))["resources"].values():
        if NEURON in part:
            part[NEURON] = "2"


@breaks("reserved-has-reservations")
def reserved_without_reservations(manifest: Manifest) -> None:
    requirement(pool(manifest), "capacity-type")["values"] = ["reserved", "on-demand"]
    for one in manifest.all("EC2NodeClass"):
        one["spec"].pop("capacityReservationSelectorTerms", None)


@breaks("tokens-where-needed")
def workers_hold_a_token(manifest: Manifest) -> None:
    group(manifest)["template"]["spec"]["automountServiceAccountToken"] = True
