"""The rules on the small sound manifest, and parts of the machinery by themselves."""

from __future__ import annotations

import copy

import pytest

import tests.kuberay.rules  # noqa: F401  (registers them)
from tests.kuberay import cel, findings, rendering, schemas
from tests.kuberay.instances import DAEMONS, INSTANCES, MIB
from tests.kuberay.manifest import Manifest
from tests.kuberay.scheduling import satisfies, tolerates


@pytest.mark.parametrize("name", sorted(findings.RULES))
def test_the_example_keeps_every_rule(name: str) -> None:
    assert list(map(str, findings.run(rendering.example(), name))) == []


def test_allocatable_is_karpenters() -> None:
    small = INSTANCES["g5.xlarge"].allocatable()
    assert round(1000 * (small["cpu"] + DAEMONS["cpu"])) == 3920
    assert int((small["memory"] + DAEMONS["memory"]) / MIB) == 14162


def test_unknown_fields_are_errors(crds: None) -> None:
    one = copy.deepcopy(rendering.example().all("NodePool")[0])
    one["spec"]["template"]["spec"]["taintz"] = []
    assert any("taintz" in problem for problem in schemas.problems(one))
    one = copy.deepcopy(rendering.example().all("Deployment")[0])
    one["spec"]["template"]["spec"]["nodeselector"] = {}
    assert any("nodeselector" in problem for problem in schemas.problems(one))


def test_every_cel_rule_of_the_crds_in_use_compiles(crds: None) -> None:
    """A rule that cel-python cannot compile would be left out without a word from any object."""
    refused = []
    for group in ("ray.io", "karpenter.sh", "karpenter.k8s.aws", "keda.sh"):
        for (api, kind), version in schemas.crd_kinds(group).items():
            for rule in set(_rules(version["schema"]["openAPIV3Schema"])):
                try:
                    cel.program(rule)
                except cel.celpy.CELParseError as error:
                    refused.append(f"{api} {kind}: {rule}: {error}")
    assert refused == []


def _rules(schema: object) -> list[str]:
    if isinstance(schema, dict):
        own = [entry["rule"] for entry in schema.get("x-kubernetes-validations", [])]
        return own + [rule for inner in schema.values() for rule in _rules(inner)]
    return []


@pytest.mark.parametrize(
    ("rule", "value", "broken"),
    [
        ("self.find('^[^@]+') == 'al2023'", "al2023@v20260710", False),
        ("self.split('@')[0] in ['al2', 'bottlerocket']", "al2023@v20260710", True),
        (
            "has(self.role) != has(self.instanceProfile)",
            {"role": "r", "instanceProfile": "p"},
            True,
        ),
        ("self.all(k, !k.startsWith('kubernetes.io/cluster'))", {"team": "images"}, False),
        ("self.__namespace__ == 'a'", {"namespace": "b"}, True),
    ],
)
def test_cel(rule: str, value: object, broken: bool) -> None:
    assert cel.broken(rule, value, "test") is broken


def test_rules_about_changes_are_listed_as_unchecked() -> None:
    assert not cel.broken("self == oldSelf", 1, "test.change")
    assert "change" in cel.UNCHECKED.pop("test.change: self == oldSelf")


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "nvidia.com/gpu", "operator": "Exists"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "nvidia.com/gpu", "value": "true"}, True),
        ({"key": "nvidia.com/gpu", "value": "false"}, False),
        ({"key": "aws.amazon.com/neuron", "operator": "Exists"}, False),
        ({"operator": "Exists"}, True),
    ],
)
def test_tolerations(toleration: dict[str, str], tolerated: bool) -> None:
    taint = {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}
    assert tolerates([toleration], taint) is tolerated


@pytest.mark.parametrize(
    ("value", "operator", "values", "met"),
    [
        ("g5", "In", ["g5", "g6"], True),
        ("g5", "NotIn", ["g5"], False),
        (None, "NotIn", ["g5"], True),
        (None, "Exists", None, False),
        (None, "DoesNotExist", None, True),
        ("8", "Gt", ["4"], True),
        ("8", "Lte", ["8"], True),
        ("8", "Lt", ["8"], False),
    ],
)
def test_requirements(
    value: str | None, operator: str, values: list[str] | None, met: bool
) -> None:
    assert satisfies(value, operator, values) is met


def test_a_pod_without_a_device_can_land_on_accelerators_if_it_tolerates_them() -> None:
    manifest = rendering.example().copy()
    deployment = manifest.find("Deployment", "placeholder-g5")
    assert deployment is not None
    for part in deployment["spec"]["template"]["spec"]["containers"][0]["resources"].values():
        part.pop("nvidia.com/gpu")
    (found,) = findings.run(manifest, "accelerators-for-their-users")
    assert "NodePool g5" in found.message
    assert findings.run(Manifest([]), "accelerators-for-their-users") == []
