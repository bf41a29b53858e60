"""A family's worker group, NodePool and compile Job, all from its one entry."""

from __future__ import annotations

from typing import Any

from kuberay.fleet import Family, Request

# The label that ties pods to nodes.
HARDWARE = "imagine/hardware"
_IMAGE = "registry/imagine:{version}-{image}"

Plain = dict[str, Any]


def worker_group(name: str, family: Family, version: str) -> list[Plain]:
    """A JSON patch that appends the family's group to a RayService."""
    wanted = family.pool.resources.needs()
    group = {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": family.pods,
        "idleTimeoutSeconds": 300,
        "rayStartParams": {},
        # All of Ray's resources are said: its autoscaler derives neuron_cores from no limit of the
        # container (ray#44361), and CPUs would let anything else in.
        "resources": {
            "CPU": "0",
            **{one: f"{amount * family.pod.devices:g}" for one, amount in wanted.items()},
        },
        "template": {
            "metadata": {
                "labels": {"app.kubernetes.io/component": "accelerator", HARDWARE: name},
            },
            "spec": {
                "nodeSelector": {HARDWARE: name},
                "tolerations": [_toleration(family)],
                "containers": [
                    {
                        "name": "ray-worker",
                        "image": _image(family, version),
                        "resources": _resources(family, family.pod),
                    }
                ],
            },
        },
    }
    return [_add("/spec/rayClusterConfig/workerGroupSpecs/-", group)]


def node_pool(name: str, family: Family) -> Plain:
    """The family's NodePool; ``components/node-defaults`` adds what all have."""
    node = family.node
    labels = {HARDWARE: name}
    if node.device == "nvidia.com/gpu":
        labels["nvidia.com/gpu.present"] = "true"  # by which the device plugin finds its nodes
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": f"imagine-{name}", "labels": {"imagine/accelerated": "true"}},
        "spec": {
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "requirements": [
                        # First, so that components/spot and components/reservations find it.
                        _one_of("karpenter.sh/capacity-type", ["on-demand"]),
                        _one_of("karpenter.k8s.aws/instance-family", [node.family]),
                        _one_of("karpenter.k8s.aws/instance-size", node.sizes),
                    ],
                    "taints": [{"key": node.device, "value": "true", "effect": "NoSchedule"}],
                },
            },
            "limits": {node.device: str(node.limit)},
        },
    }


def compile_job(name: str, family: Family, version: str) -> list[Plain]:
    """A JSON patch that sends the compile Job to the family's nodes."""
    pod = "/spec/template/spec"
    return [
        {"op": "replace", "path": "/metadata/name", "value": f"compile-{name}"},
        {"op": "replace", "path": f"{pod}/containers/0/env/0/value", "value": family.image},
        {
            "op": "replace",
            "path": f"{pod}/containers/0/image",
            "value": _image(family, version),
        },
        {
            "op": "replace",
            "path": f"{pod}/containers/0/resources",
            "value": _resources(family, family.compile),
        },
        *(_one_batch(f"{pod}/containers/0/args/5") if family.image == "neuron" else []),
        _add(f"{pod}/nodeSelector", {HARDWARE: name}),
        _add(f"{pod}/tolerations", [_toleration(family)]),
    ]


def _one_batch(path: str) -> list[Plain]:
    """Neuron's graphs have one size, where others are compiled in several."""
    return [
        {"op": "test", "path": path, "value": "--batch=$(BATCH)"},
        {"op": "replace", "path": path, "value": "--batch=$(NEURON_BATCH)"},
    ]


def _resources(family: Family, request: Request) -> Plain:
    return {
        "requests": {
            "cpu": str(request.cpu),
            "memory": request.memory,
            "ephemeral-storage": "60Gi",
        },
        "limits": {
            "memory": request.memory,
            "ephemeral-storage": "100Gi",
            family.node.device: str(request.devices),
        },
    }


def _image(family: Family, version: str) -> str:
    return _IMAGE.format(version=version, image=family.image)


def _toleration(family: Family) -> Plain:
    return {"key": family.node.device, "operator": "Exists", "effect": "NoSchedule"}


def _one_of(key: str, values: list[str]) -> Plain:
    return {"key": key, "operator": "In", "values": list(values)}


def _add(path: str, value: Any) -> Plain:
    return {"op": "add", "path": path, "value": value}
