"""What the API server refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.kuberay import schemas
from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, title


@rule
def custom_schema(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Custom resources: structure, unknown fields, CEL rules; nothing where no CRDs are."""
    if schemas.CRDS.is_dir():
        for one in manifest.objects:
            if schemas.is_custom(one) or one["apiVersion"].split("/")[0] in schemas.crd_groups():
                yield from ((title(one), problem) for problem in schemas.problems(one))


@rule
def core_schema(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Kubernetes' own kinds: structure and unknown fields."""
    for one in manifest.objects:
        group = one["apiVersion"].rpartition("/")[0]
        if not schemas.is_custom(one) and group not in schemas.crd_groups():
            yield from ((title(one), problem) for problem in schemas.problems(one))


@rule
def pod_template_schema(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Pods inside custom resources, as strictly as pods: CRDs leave much of them open."""
    for pod in manifest.workloads():
        if schemas.is_custom(pod.owner):
            whole = {"apiVersion": "v1", "kind": "Pod", **pod.template}
            yield from ((pod.where, problem) for problem in schemas.problems(whole))


@rule
def names_are_labels(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Lower-case names of at most 63 characters: they end up in labels and host names."""
    for one in manifest.objects:
        name = str(one["metadata"].get("name", ""))
        if one["kind"] in {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}:
            continue
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", name):
            yield title(one), f"the name {name!r} is not lower-case, or is above 63 characters"


@rule
def once_only(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No object twice: the last would win."""
    seen = set()
    for one in manifest.objects:
        key = (one["apiVersion"], one["kind"], one["metadata"].get("namespace"), title(one))
        if key in seen:
            yield title(one), "is there twice"
        seen.add(key)
