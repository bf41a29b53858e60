"""Broken copies: each makes one mistake that people make, mostly ones of published examples.

A mutation changes a manifest in place; ``AbsentError`` says that there is nothing in it to break.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from tests.kuberay.manifest import Manifest, Object

ALB = "alb.ingress.kubernetes.io/"
GPU, NEURON = "nvidia.com/gpu", "aws.amazon.com/neuron"


class AbsentError(Exception):
    """The manifest has no such thing."""


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Attributes:
        name: what it is.
        rule: the rule that must find it.
        change: makes it, in place.
    """

    name: str
    rule: str
    change: Callable[[Manifest], None]


MUTATIONS: list[Mutation] = []


def breaks(rule: str) -> Callable[[Callable[[Manifest], None]], Callable[[Manifest], None]]:
    """Register a mutation that ``rule`` must find."""

    def register(change: Callable[[Manifest], None]) -> Callable[[Manifest], None]:
        MUTATIONS.append(Mutation(change.__name__, rule, change))
        return change

    return register


def the(manifest: Manifest, kind: str, name: str = "") -> Object:
    """The first object of a kind whose name holds ``name``.

    Raises:
        AbsentError: there is none.
    """
    for one in manifest.all(kind):
        if name in one["metadata"]["name"]:
            return one
    raise AbsentError(kind, name)


def service(manifest: Manifest) -> Object:
    """The first RayService's spec."""
    spec: Object = the(manifest, "RayService")["spec"]
    return spec


def cluster(manifest: Manifest) -> Object:
    """The first RayService's cluster."""
    found: Object = service(manifest)["rayClusterConfig"]
    return found


def group(manifest: Manifest, device: str = "") -> Object:
    """The first worker group that asks for ``device``, or for none.

    Raises:
        AbsentError: there is none.
    """
    for pod in manifest.ray_pods():
        found = bool(pod.accelerators()) if not device else device in pod.accelerators()
        if pod.role == "worker" and found == bool(device):
            return pod.group
    raise AbsentError(device)


def container(owner: Object) -> Object:
    """The first container of a group, or of a Deployment or Job."""
    template = owner["template"] if "template" in owner else owner["spec"]["template"]
    found: Object = template["spec"]["containers"][0]
    return found


def pool(manifest: Manifest, device: str = "nvidia.com/gpu") -> Object:
    """The spec of the first NodePool limited in ``device``.

    Raises:
        AbsentError: there is none.
    """
    for one in manifest.all("NodePool"):
        if device in one["spec"].get("limits", {}):
            spec: Object = one["spec"]
            return spec
    raise AbsentError(device)


def requirement(spec: Object, key: str) -> Object:
    """A NodePool's requirement by its key's end."""
    for one in spec["template"]["spec"]["requirements"]:
        if one["key"].endswith(key):
            found: Object = one
            return found
    raise AbsentError(key)


def notes(manifest: Manifest) -> dict[str, str]:
    """The Ingress' annotations."""
    found: dict[str, str] = the(manifest, "Ingress")["metadata"]["annotations"]
    return found


def serve(manifest: Manifest, change: Callable[[Any], None]) -> None:
    """Change what ``serveConfigV2`` says."""
    spec = service(manifest)
    config = yaml.load(spec["serveConfigV2"], yaml.CSafeLoader)
    change(config)
    spec["serveConfigV2"] = yaml.dump(config, Dumper=yaml.CSafeDumper)
