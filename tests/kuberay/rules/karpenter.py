"""NodePools and the pods that they are for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.instances import INSTANCES
from tests.kuberay.manifest import Manifest, Workload, title
from tests.kuberay.scheduling import Pool, attracted, fits, places

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
def groups_have_their_pool(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every Ray pod can be scheduled on exactly one NodePool, from its smallest instance on."""
    everything = pools(manifest)
    if not everything:
        for pod in manifest.ray_pods():
            if pod.accelerators():
                yield pod.where, "asks for accelerators, but there is no NodePool"
        return
    for pod in manifest.ray_pods():
        found = places(pod, everything)
        if len(found) != 1:
            yield pod.where, f"can be scheduled on {sorted(found)}: {_why(pod, everything)}"
            continue
        (name,) = found
        pool = next(pool for pool in everything if pool.name == name)
        smallest = pool.instances()[0]
        if pod.accelerators() and not fits(pod, smallest):
            yield pod.where, f"does not fit {smallest.name}, the smallest of NodePool {name}"
        if bool(pod.accelerators()) != pool.accelerated:
            yield pod.where, f"lands on NodePool {name}, which has other hardware"


def _why(pod: Workload, everything: list[Pool]) -> str:
    near = {
        pool.name: [i.name for i in pool.instances() if attracted(pod, pool, i)][:3]
        for pool in everything
    }
    return f"attracted by { {k: v for k, v in near.items() if v} }, requests {pod.requests()}"


@rule
def one_family_a_pool(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Groups with unlike hardware share no NodePool; each accelerated pool has a group."""
    everything = pools(manifest)
    users: dict[str, set[str]] = {}
    for pod in manifest.ray_pods():
        for name in places(pod, everything) if pod.accelerators() else ():
            users.setdefault(name, set()).add(pod.where)
    for name, groups in users.items():
        if len(groups) > 1:
            yield f"NodePool/{name}", f"is shared by {sorted(groups)}"
    for pool in everything:
        if pool.accelerated and manifest.ray_pods() and pool.name not in users:
            yield title(pool.raw), "no worker group can be scheduled on it"


@rule
def accelerators_for_their_users(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Only what asks for a pool's device can land on its nodes."""
    dear = [pool for pool in pools(manifest) if pool.accelerated]
    for pod in manifest.workloads():
        if pod.role == "DaemonSet":
            continue  # it is there beside the others, and asks for little
        for name in places(pod, dear):
            if not pod.accelerators():
                yield (
                    pod.where,
                    f"can land on NodePool {name} without asking for a device",
                )
        for one in pod.spec.get("tolerations") or []:
            if one.get("operator") == "Exists" and not one.get("key"):
                yield pod.where, "tolerates everything"


@rule
def device_users_have_nodes(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A Job or placeholder that asks for a device has a NodePool."""
    everything = pools(manifest)
    for pod in manifest.workloads():
        if everything and not pod.group and pod.role != "DaemonSet" and not places(pod, everything):
            yield pod.where, f"can be scheduled nowhere: {_why(pod, everything)}"


@rule
def heads_not_on_spot(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The head and the ingress take requests down with them: not on nodes that can be recalled."""
    everything = pools(manifest)
    for pod in manifest.ray_pods():
        steady = pod.role == "head" or (
            not pod.accelerators() and (pod.group.get("minReplicas") or 0) >= 1
        )
        for pool in everything:
            if steady and pool.name in places(pod, [pool]) and "spot" in _capacity(pod, pool):
                yield pod.where, f"NodePool {pool.name} may put it on spot"


def _capacity(pod: Workload, pool: Pool) -> set[str]:
    asked = (pod.spec.get("nodeSelector") or {}).get("karpenter.sh/capacity-type")
    return pool.capacity_types() & ({asked} if asked else pool.capacity_types())


@rule
def whole_neuron_nodes(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """More than one but not all of a node's Neuron devices need a scheduler extension."""
    everything = pools(manifest)
    for pod in manifest.workloads():
        wanted = pod.requests().get("aws.amazon.com/neuron", 0.0)
        for name, instances in places(pod, everything).items() if wanted > 1 else ():
            split = [i.name for i in instances if wanted < i.neurons]
            if split:
                yield pod.where, f"takes {wanted:g} devices of {split} of NodePool {name}"


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


@rule
def pools_agree_with_groups(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A NodePool's limit allows the replicas that its group may have."""
    everything = pools(manifest)
    for pod in manifest.ray_pods():
        for name in places(pod, everything) if pod.accelerators() else ():
            limits = (manifest.find("NodePool", name) or {})["spec"].get("limits") or {}
            for device, amount in pod.accelerators().items():
                most = amount * (pod.group.get("maxReplicas") or 0)
                if device in limits and float(limits[device]) < most:
                    yield (
                        pod.where,
                        f"maxReplicas takes {most:g} {device}; {name} allows {limits[device]}",
                    )
