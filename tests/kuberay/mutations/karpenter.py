"""Mistakes in NodePools and NodeClasses: mostly those of the AWS sample, all refused today."""

from __future__ import annotations

import json

from tests.kuberay.manifest import Manifest
from tests.kuberay.mutations.base import (
    GPU,
    NEURON,
    breaks,
    container,
    group,
    pool,
    requirement,
    the,
)


@breaks("custom-schema")
def node_pool_of_v1beta1(manifest: Manifest) -> None:
    the(manifest, "NodePool")["apiVersion"] = "karpenter.sh/v1beta1"


@breaks("custom-schema")
def node_class_of_v1beta1(manifest: Manifest) -> None:
    the(manifest, "EC2NodeClass")["apiVersion"] = "karpenter.k8s.aws/v1beta1"


@breaks("custom-schema")
def expire_after_under_disruption(manifest: Manifest) -> None:
    pool(manifest)["disruption"]["expireAfter"] = "720h"


@breaks("custom-schema")
def node_class_by_api_version(manifest: Manifest) -> None:
    reference = pool(manifest)["template"]["spec"]["nodeClassRef"]
    reference["apiVersion"] = "karpenter.k8s.aws/v1"


@breaks("custom-schema")
def no_ami_selector(manifest: Manifest) -> None:
    del the(manifest, "EC2NodeClass")["spec"]["amiSelectorTerms"]


@breaks("custom-schema")
def consolidation_when_underutilized(manifest: Manifest) -> None:
    pool(manifest)["disruption"]["consolidationPolicy"] = "WhenUnderutilized"


@breaks("custom-schema")
def no_consolidate_after(manifest: Manifest) -> None:
    del pool(manifest)["disruption"]["consolidateAfter"]


@breaks("custom-schema")
def role_and_instance_profile(manifest: Manifest) -> None:
    """Only a CEL rule says that one excludes the other."""
    the(manifest, "EC2NodeClass")["spec"]["instanceProfile"] = "imagine"


@breaks("custom-schema")
def static_pool_with_weight(manifest: Manifest) -> None:
    pool(manifest).update({"replicas": 2, "weight": 10})


@breaks("custom-schema")
def unknown_requirement_key(manifest: Manifest) -> None:
    key = "karpenter.k8s.aws/instance-familly"
    requirement(pool(manifest), "instance-family")["key"] = key


@breaks("node-class-sound")
def floating_ami(manifest: Manifest) -> None:
    the(manifest, "EC2NodeClass")["spec"]["amiSelectorTerms"] = [{"alias": "al2023@latest"}]


@breaks("node-class-sound")
def amazon_linux_2(manifest: Manifest) -> None:
    the(manifest, "EC2NodeClass")["spec"]["amiSelectorTerms"] = [{"alias": "al2@v20250505"}]


@breaks("node-class-sound")
def pods_reach_instance_metadata(manifest: Manifest) -> None:
    the(manifest, "EC2NodeClass")["spec"]["metadataOptions"]["httpPutResponseHopLimit"] = 2


@breaks("node-class-sound")
def default_root_volume(manifest: Manifest) -> None:
    del the(manifest, "EC2NodeClass")["spec"]["blockDeviceMappings"]


@breaks("node-class-exists")
def node_class_of_another_name(manifest: Manifest) -> None:
    pool(manifest)["template"]["spec"]["nodeClassRef"]["name"] = "gpu"


@breaks("families-known")
def inferentia_1(manifest: Manifest) -> None:
    requirement(pool(manifest, NEURON), "instance-family")["values"] = ["inf1", "inf2"]


@breaks("families-known")
def family_p4(manifest: Manifest) -> None:
    requirement(pool(manifest), "instance-family")["values"] = ["p4"]


@breaks("accelerators-tainted")
def no_taint(manifest: Manifest) -> None:
    pool(manifest)["template"]["spec"]["taints"] = []


@breaks("accelerators-tainted")
def no_label_for_the_device_plugin(manifest: Manifest) -> None:
    del pool(manifest)["template"]["metadata"]["labels"]["nvidia.com/gpu.present"]


@breaks("accelerators-tainted")
def families_mixed(manifest: Manifest) -> None:
    """The seed document's own NodePool: g5 and g6 in one."""
    requirement(pool(manifest), "instance-family")["values"] = ["g5", "g6"]


@breaks("spending-limited")
def no_limit(manifest: Manifest) -> None:
    del pool(manifest)["limits"]


@breaks("accelerators-not-shuffled")
def accelerators_consolidated(manifest: Manifest) -> None:
    pool(manifest)["disruption"]["consolidationPolicy"] = "WhenEmptyOrUnderutilized"


@breaks("expiry-can-finish")
def drift_blocked_for_ever(manifest: Manifest) -> None:
    del pool(manifest)["template"]["spec"]["terminationGracePeriod"]


@breaks("groups-have-their-pool")
def no_toleration(manifest: Manifest) -> None:
    group(manifest, GPU)["template"]["spec"].pop("tolerations")


@breaks("groups-have-their-pool")
def selector_of_no_pool(manifest: Manifest) -> None:
    selector = group(manifest, NEURON)["template"]["spec"]["nodeSelector"]
    selector[next(iter(selector))] = "inf1"


@breaks("groups-have-their-pool")
def no_selector(manifest: Manifest) -> None:
    """A second pool for the same device then suits as well."""
    group(manifest, GPU)["template"]["spec"]["nodeSelector"] = {}
    copied = json.loads(json.dumps(next(one for one in manifest.all("NodePool")
                                        if GPU in one["spec"].get("limits", {}))))  # fmt: skip
    copied["metadata"]["name"] = "another"
    manifest.objects.append(copied)


@breaks("groups-have-their-pool")
def all_of_the_smallest_nodes_cores(manifest: Manifest) -> None:
    """4 of 4 cores: 3.92 are allocatable, and DaemonSets have their share."""
    container(group(manifest, GPU))["resources"]["requests"]["cpu"] = "4"


@breaks("groups-have-their-pool")
def all_of_the_smallest_nodes_memory(manifest: Manifest) -> None:
    resources = container(group(manifest, NEURON))["resources"]
    resources["requests"]["memory"] = resources["limits"]["memory"] = "14Gi"


@breaks("accelerators-for-their-users")
def placeholder_without_a_device(manifest: Manifest) -> None:
    resources = container(the(manifest, "Deployment"))["resources"]
    for device in (GPU, NEURON):
        resources["limits"].pop(device, None)
        resources["requests"].pop(device, None)


@breaks("heads-not-on-spot")
def head_on_spot(manifest: Manifest) -> None:
    spec = pool(manifest, "cpu")
    requirement(spec, "capacity-type")["values"] = ["spot", "on-demand"]


@breaks("pools-agree-with-groups")
def limit_below_the_group(manifest: Manifest) -> None:
    pool(manifest)["limits"][GPU] = "1"
