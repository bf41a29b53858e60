"""Every pod: images, privileges, resources."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.manifest import ACCELERATORS, Manifest, Object, Workload, strings, title

_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_PINNED_TAG = re.compile(r"[^:]+:(?=[\w.-]*\d)\w[\w.-]*")
_FLOATING = re.compile(r":(latest|nightly|main|master|stable|edge|dev|head|release)\b", re.I)
_DEVICES = frozenset({*ACCELERATORS, "vpc.amazonaws.com/efa"})
_PLAIN_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage"})
_OPEN_POD = ("hostNetwork", "hostPID", "hostIPC")


def contexts(pod: Workload) -> Iterator[tuple[str, Object]]:
    """Container name -> its security context over the pod's; the autoscaler's too."""
    whole = pod.spec.get("securityContext") or {}
    for container in pod.containers:
        yield container["name"], {**whole, **(container.get("securityContext") or {})}
    options = pod.cluster.get("autoscalerOptions") or {}
    if pod.role == "head" and "securityContext" in options:
        yield "autoscaler", {**whole, **options["securityContext"]}


@rule
def images_pinned(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A tag with a version in it, or a digest: what runs tomorrow is what ran today."""
    for pod in manifest.workloads():
        images = [container.get("image", "") for container in pod.containers]
        if "image" in (pod.cluster.get("autoscalerOptions") or {}):
            images.append(pod.cluster["autoscalerOptions"]["image"])
        for image in images:
            pinned = _DIGEST.fullmatch(image) or _PINNED_TAG.fullmatch(image.rpartition("/")[2])
            if not pinned or _FLOATING.search(image):
                yield pod.where, f"image {image!r} floats; give a version or a digest"


@rule
def nothing_privileged(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Kubernetes' restricted profile: no root, no privileges, no host."""
    for pod in manifest.workloads():
        for name in _OPEN_POD:
            if pod.spec.get(name):
                yield pod.where, f"{name} is set"
        for volume in pod.spec.get("volumes") or []:
            if "hostPath" in volume:
                yield pod.where, f"volume {volume['name']} is a hostPath"
        for name, context in contexts(pod):
            where = f"{pod.where} container {name}"
            if context.get("privileged"):
                yield where, "is privileged"
            if context.get("allowPrivilegeEscalation") is not False:
                yield where, "allowPrivilegeEscalation is not false"
            if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
                yield where, "runAsNonRoot is not true"
            capabilities = context.get("capabilities") or {}
            if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
                yield where, f"capabilities {capabilities}: drop ALL, add none"
            if (context.get("seccompProfile") or {}).get("type") not in {
                "RuntimeDefault",
                "Localhost",
            }:
                yield where, "seccompProfile is not RuntimeDefault"


@rule
def resources_given(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """CPU and memory requests and a memory limit everywhere, or the scheduler guesses."""
    for pod in manifest.workloads():
        for container in pod.containers:
            resources = container.get("resources") or {}
            requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
            for name in ("cpu", "memory"):
                if name not in requests and name not in limits:
                    yield pod.where, f"container {container['name']} requests no {name}"
            if "memory" not in limits:
                yield pod.where, f"container {container['name']} has no memory limit"


@rule
def device_resources(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Devices by their exact names, whole, as a limit, on one kind of device only."""
    for pod in manifest.workloads():
        for container in pod.containers:
            resources = container.get("resources") or {}
            requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
            named = ({*requests, *limits}) - _PLAIN_RESOURCES
            for name in sorted(named):
                if name not in _DEVICES:
                    yield pod.where, f"resource {name!r}: not one of {sorted(_DEVICES)}"
                elif name not in limits or requests.get(name, limits[name]) != limits[name]:
                    yield pod.where, f"{name}: the limit must be there and equal the request"
                elif not re.fullmatch(r"[1-9]\d*", str(limits[name])):
                    yield pod.where, f"{name}: {limits[name]!r} is not a whole number"
            if len(named & set(ACCELERATORS)) > 1:
                yield pod.where, f"asks for {sorted(named & set(ACCELERATORS))} at once"


@rule
def jobs_end(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A Job has a deadline, few retries, and goes away; Karpenter leaves it in peace."""
    for one in manifest.all("Job"):
        spec = one["spec"]
        for key in ("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
            if key not in spec:
                yield title(one), f"{key} is not set"
    for pod in manifest.workloads():
        if (
            pod.role == "Job"
            and pod.accelerators()
            and pod.annotations.get("karpenter.sh/do-not-disrupt") != "true"
        ):
            yield pod.where, 'no annotation karpenter.sh/do-not-disrupt: "true"'


@rule
def no_remote_manifests(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No pod fetches what it runs from a branch: nobody knows what will be there."""
    for one in manifest.objects:
        for path, text in strings(one):
            if re.search(r"(raw\.githubusercontent\.com|github\.com)/\S*/(main|master)\b", text):
                yield title(one), f"{path} takes code from a branch: {text[:80]!r}"
