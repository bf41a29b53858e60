"""NodePools and the pods that they are for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.instances import INSTANCES
from tests.kuberay.manifest import Manifest, title
from tests.kuberay.scheduling import Pool, places

_GPU_LABEL = "nvidia.com/gpu.present"
_GONE = {"inf1": "has no current Neuron SDK", "p4": "is no family: p4d, p4de", "p3": "is too old"}
_DURATION = re.compile(r"(\d+)(s|m|h)")


def pools(manifest: Manifest) -> list[Pool]:
    """The manifest's NodePools."""
    return [Pool(one) for one in manifest.all("NodePool")]


@rule
def node_class_exists(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A NodePool without its EC2NodeClass launches nothing."""
    for one in manifest.all("NodePool"):
        reference = one["spec"]["template"]["spec"].get("nodeClassRef") or {}
        wanted = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass"}
        if {k: reference.get(k) for k in wanted} != wanted:
            yield title(one), f"nodeClassRef {reference}: group and kind must be {wanted}"
        elif manifest.find("EC2NodeClass", reference.get("name", "")) is None:
            yield title(one), f"EC2NodeClass {reference.get('name')!r} is not made here"


@rule
def families_known(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Each family named exists, is current, and can be launched in the sizes asked for."""
    families = {instance.family for instance in INSTANCES.values()}
    for pool in pools(manifest):
        for one in pool.requirements:
            if one["key"].endswith("instance-family") and one["operator"] == "In":
                for family in one["values"]:
                    if family not in families:
                        yield title(pool.raw), f"family {family} {_GONE.get(family, 'is unknown')}"
        if not pool.instances():
            yield title(pool.raw), "no known instance type meets the requirements"


@rule
def amd64_only(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The images and the Neuron AMI are for amd64."""
    families = {instance.family for instance in INSTANCES.values()}  # all amd64
    for pool in pools(manifest):
        if not any(
            one["operator"] == "In"
            and (
                (one["key"] == "kubernetes.io/arch" and one["values"] == ["amd64"])
                or (one["key"].endswith("instance-family") and set(one["values"]) <= families)
            )
            for one in pool.requirements
        ):
            yield title(pool.raw), "no requirement kubernetes.io/arch In [amd64]"


@rule
def accelerators_tainted(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Accelerated nodes keep other pods away, under the names that device plugins tolerate."""
    for pool in pools(manifest):
        if not pool.accelerated:
            continue
        gpu = any(instance.gpus for instance in pool.instances())
        key = "nvidia.com/gpu" if gpu else "aws.amazon.com/neuron"
        if not any(t["key"] == key and t["effect"] == "NoSchedule" for t in pool.taints):
            yield title(pool.raw), f"no taint {key}:NoSchedule"
        others = [t["key"] for t in pool.taints if t["key"] != key]
        if others:
            yield title(pool.raw), f"taints {others} are not tolerated by the device plugin"
        if gpu and pool.labels.get(_GPU_LABEL) != "true":
            yield title(pool.raw), f'no label {_GPU_LABEL}: "true": the device plugin stays away'
        kinds = {(i.gpu_name, i.accelerator_name) for i in pool.instances()}
        if len(kinds) > 1:
            yield title(pool.raw), f"mixes accelerators: {sorted(kinds)}; one pool a family"


@rule
def spending_limited(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every pool has a limit; without one a fault buys nodes without end."""
    for pool in pools(manifest):
        limits = pool.raw["spec"].get("limits") or {}
        if not limits:
            yield title(pool.raw), "limits is not set"
            continue
        devices = {"nvidia.com/gpu", "aws.amazon.com/neuron", "aws.amazon.com/neuroncore"}
        if pool.accelerated and not devices & limits.keys():
            yield title(pool.raw), f"limits {sorted(limits)} names no accelerator"


def _seconds(text: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600}
    if text == "Never":
        return float("inf")
    return float(sum(int(n) * unit[u] for n, u in _DURATION.findall(text)))


@rule
def accelerators_not_shuffled(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """An accelerated node goes only when empty for 10 min: a cold start costs minutes."""
    for pool in pools(manifest):
        disruption = pool.raw["spec"].get("disruption") or {}
        if not pool.accelerated:
            continue
        if disruption.get("consolidationPolicy") != "WhenEmpty":
            yield title(pool.raw), "disruption.consolidationPolicy is not WhenEmpty"
        if _seconds(str(disruption.get("consolidateAfter", "0s"))) < 600:
            yield title(pool.raw), "disruption.consolidateAfter is below 10m"


@rule
def expiry_can_finish(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Pods that must not be disrupted block expiry for ever without a grace period."""
    for pool in pools(manifest):
        grace = pool.raw["spec"]["template"]["spec"].get("terminationGracePeriod")
        if grace is None:
            yield title(pool.raw), "template.spec.terminationGracePeriod is not set"
            continue
        for pod in manifest.workloads():
            wanted = pod.spec.get("terminationGracePeriodSeconds", 30)
            if pool.name in places(pod, [pool]) and _seconds(grace) < wanted:
                yield (
                    title(pool.raw),
                    f"terminationGracePeriod {grace}: {pod.where} needs {wanted} s",
                )


@rule
def node_class_sound(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A pinned image of the node, room for container images, IMDS out of pods' reach."""
    for one in manifest.all("EC2NodeClass"):
        spec = one["spec"]
        for term in spec.get("amiSelectorTerms") or []:
            alias = term.get("alias", "")
            if not re.fullmatch(r"al2023@v\d{8}", alias):
                yield title(one), f"AMI alias {alias!r}: pin al2023@vYYYYMMDD"
        root = [m for m in spec.get("blockDeviceMappings") or [] if m["deviceName"] == "/dev/xvda"]
        if not root:
            yield title(one), "no blockDeviceMappings for /dev/xvda: the default is 20 GiB"
        for mapping in root:
            volume = mapping.get("ebs") or {}
            size = re.fullmatch(r"(\d+)Gi", str(volume.get("volumeSize", "")))
            if not size or int(size[1]) < 50:
                yield title(one), f"root volume {volume.get('volumeSize')!r}: below 50Gi"
            if volume.get("encrypted") is not True:
                yield title(one), "root volume is not encrypted"
            if volume.get("volumeType") != "gp3":
                yield title(one), f"root volume is {volume.get('volumeType')!r}, not gp3"
        metadata = spec.get("metadataOptions") or {}
        if metadata.get("httpPutResponseHopLimit") != 1 or metadata.get("httpTokens") != "required":
            yield title(one), "metadataOptions: httpPutResponseHopLimit 1 and httpTokens required"


@rule
def images_have_room(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Accelerator images are big: 200 GiB of root, or the instance's own NVMe."""
    for pool in pools(manifest):
        name = pool.raw["spec"]["template"]["spec"]["nodeClassRef"].get("name", "")
        node_class = manifest.find("EC2NodeClass", name) or {"spec": {}}
        sizes = [
            int(str((m.get("ebs") or {}).get("volumeSize", "0Gi")).removesuffix("Gi"))
            for m in node_class["spec"].get("blockDeviceMappings") or []
        ]
        striped = node_class["spec"].get("instanceStorePolicy") == "RAID0"
        has_nvme = all(instance.nvme_gb for instance in pool.instances())
        if pool.accelerated and max(sizes, default=20) < 200 and not (striped and has_nvme):
            yield title(pool.raw), f"EC2NodeClass {name}: root below 200Gi and no RAID0 of NVMe"


@rule
def reserved_has_reservations(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Reserved capacity is used only where the NodeClass says which reservations."""
    for one in manifest.all("NodePool"):
        pool = Pool(one)
        named = any("reserved" in (r.get("values") or []) for r in pool.requirements)
        reference = one["spec"]["template"]["spec"]["nodeClassRef"].get("name", "")
        node_class = manifest.find("EC2NodeClass", reference) or {"spec": {}}
        if named and not node_class["spec"].get("capacityReservationSelectorTerms"):
            yield title(one), f"EC2NodeClass {reference} has no capacityReservationSelectorTerms"
