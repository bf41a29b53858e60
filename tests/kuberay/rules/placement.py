"""Which NodePool each pod lands on, and that nothing else lands on accelerators."""

from __future__ import annotations

from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Workload, title
from tests.kuberay.rules.karpenter import pools
from tests.kuberay.scheduling import Pool, attracted, fits, places


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
