"""Every overlay, and every Job beside it, against every rule."""

from __future__ import annotations

import shutil
from pathlib import Path

import tests.kuberay.rules  # noqa: F401  (registers them)
from tests.kuberay import findings, rendering, schemas
from tests.kuberay.manifest import Manifest


def test_there_are_overlays() -> None:
    assert {"eks", "local"} <= set(rendering.overlays())
    assert rendering.additions()


def test_overlay(overlay: Manifest) -> None:
    """Every rule; what is found says which, where and what to do."""
    assert list(map(str, findings.run(overlay))) == []


def test_addition(addition: Manifest) -> None:
    assert list(map(str, findings.run(addition))) == []


def test_custom_resources_of_an_overlay(overlay: Manifest, crds: None) -> None:
    """Against the CRDs; a test of its own, so that their absence is seen."""
    assert any(schemas.is_custom(one) for one in overlay.objects)
    assert list(map(str, findings.run(overlay, "custom-schema"))) == []


def test_custom_resources_of_an_addition(addition: Manifest, crds: None) -> None:
    assert list(map(str, findings.run(addition, "custom-schema"))) == []


def test_a_plain_machine_needs_nothing_of_aws(kubectl: str) -> None:
    """``overlays/local`` has no accelerator and no kind that kind or k3d lack."""
    manifest = rendering.overlay("local")
    assert [pod.where for pod in manifest.workloads() if pod.accelerators()] == []
    groups = {one["apiVersion"].rpartition("/")[0] for one in manifest.objects}
    assert not {group for group in groups if group.endswith((".aws", "karpenter.sh", "keda.sh"))}
    assert manifest.all("Ingress") == []


def test_any_cluster_name(tmp_path: Path, kubectl: str) -> None:
    """Names with hyphens too, in overlays that put the values in more than once."""
    there = tmp_path / "kuberay"
    shutil.copytree(rendering.KUBERAY, there)
    values = there / "cluster" / "cluster.env"
    values.write_text(values.read_text().replace("_NAME=imagine", "_NAME=our-gpu-cluster"))
    for name in set(rendering.overlays()) - {"local"}:
        (found,) = rendering.build(str(there / "overlays" / name)).all("EC2NodeClass")
        assert found["spec"]["role"] == "KarpenterNodeRole-our-gpu-cluster", name
        for terms in ("subnetSelectorTerms", "securityGroupSelectorTerms"):
            assert found["spec"][terms] == [{"tags": {"karpenter.sh/discovery": "our-gpu-cluster"}}]


def test_nodes_come_before_a_service(kubectl: str) -> None:
    """What docs/eks.md applies first has all that the compile Jobs name."""
    first = [*rendering.build("base/shared").objects, *rendering.build("nodes").objects]
    made = {(one["kind"], one["metadata"]["name"]) for one in first}
    (job,) = (pod for pod in rendering.build("jobs/compile/inf2").workloads() if pod.role == "Job")
    assert ("Namespace", job.owner["metadata"]["namespace"]) in made
    assert ("ServiceAccount", job.spec["serviceAccountName"]) in made
    assert ("PriorityClass", job.spec["priorityClassName"]) in made
    assert ("NodePool", f"imagine-{job.spec['nodeSelector']['imagine/hardware']}") in made
