"""Files under ``kuberay/`` as they lie, and the tools that judge them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from kuberay.images import packages
from tests.kuberay.files import dockerfile_problems, policy_problems, script_problems, yaml_problems
from tests.kuberay.rendering import KUBERAY, ROOT
from tests.kuberay.rules.secrets import suspicious
from tests.kuberay.schemas import CRDS, KUBERNETES

DOCS = ROOT / "docs" / "eks.md"


def files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in KUBERAY.rglob(pattern))


def named(*patterns: str) -> pytest.MarkDecorator:
    found = files(*patterns)
    assert found, patterns
    return pytest.mark.parametrize("path", found, ids=lambda p: str(p.relative_to(KUBERAY)))


def test_every_yaml_has_each_key_once() -> None:
    paths = files("*.yaml")
    assert len(paths) > 20
    wrong = {str(p): yaml_problems(p.read_text(encoding="utf-8")) for p in paths}
    assert {path: problems for path, problems in wrong.items() if problems} == {}


def test_a_key_twice_is_found() -> None:
    """As in the AWS sample's Deployments, whose first ``volumes`` nobody ever saw."""
    assert "volumes" in yaml_problems("spec:\n  volumes: [a]\n  volumes: [b]\n")[0]


def test_nothing_private_in_any_file() -> None:
    texts = [p for p in KUBERAY.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    wrong = [
        f"{path}: {what}"
        for path in [*texts, DOCS]
        for what in suspicious(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


@named("*.Dockerfile", "Dockerfile*")
def test_dockerfile(path: Path) -> None:
    assert list(dockerfile_problems(path.read_text(encoding="utf-8"))) == []


GOOD = """ARG BASE=example.org/python:3.11.14
FROM ${BASE}
RUN pip install --no-cache-dir -c c.txt ray==2.60.0
USER 1000
"""


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("USER 1000\n", "", "USER"),
        ("USER 1000", "USER 0", "USER"),
        (":3.11.14", ":latest", "tag"),
        ("FROM ${BASE}", "FROM python:3.11", "digest"),
        ("install", "install --index-url ftp://example.org/simple", "index"),
        (" -c c.txt", "", "constraints"),
        ("pip install --no-cache-dir", "pip install", "DL3042"),
        ("RUN pip", "RUN curl https://example.org/x | sh\nRUN pip", "downloads"),
        ("RUN pip", "RUN dnf install -y gcc && bash user.sh\nRUN pip", "shadow-utils"),
        ("USER 1000", "ADD https://example.org/x /x\nUSER 1000", "COPY"),
    ],
)
def test_a_broken_dockerfile(old: str, new: str, what: str) -> None:
    assert list(dockerfile_problems(GOOD)) == []
    broken = GOOD.replace(old, new)
    assert broken != GOOD
    assert any(what in problem for problem in dockerfile_problems(broken))


def test_images_have_one_ray_and_one_python() -> None:
    pins = [
        re.findall(r"^ray==(\S+)", (ROOT / name).read_text(encoding="utf-8"), re.M)
        for name in ("constraints.txt", "constraints-neuron.txt")
    ]
    assert len(pins[0]) == 1
    assert pins[0] == pins[1]
    for kind, python in {"cpu": "python:3.11.", "cuda": "python3.11 ", "neuron": "py311"}.items():
        text = (KUBERAY / "images" / f"{kind}.Dockerfile").read_text(encoding="utf-8")
        assert python in text, kind


def test_the_neuron_image_cannot_get_placeholders() -> None:
    text = (KUBERAY / "images" / "neuron.Dockerfile").read_text(encoding="utf-8")
    assert "--extra-index-url" in text
    assert text.index("pip install") < text.index("packages.py check")
    pins = dict(
        re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints-neuron.txt").read_text("utf-8"), re.M)
    )
    for name in ("torch-neuronx", "neuronx-cc", "libneuronxla", "neuronx_distributed"):
        pinned = pins.get(name) or pins.get(name.replace("_", "-")) or ""
        # PyPI's placeholders have the versions 0.1 and 1.0.
        assert pinned.count(".") >= 2, f"{name}: {pinned!r} is not a version of AWS' index"


@pytest.mark.parametrize(("said", "found"), [("WRONG PACKAGE: see ...", True), ("'real'", False)])
def test_placeholders_fail_the_build(
    said: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch_neuronx"
    package.mkdir()
    (package / "__init__.py").write_text(f'raise ImportError("{said}")', encoding="utf-8")
    info = tmp_path / "torch_neuronx-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: torch-neuronx\nVersion: 1.0\n", encoding="utf-8")
    (info / "RECORD").write_text("torch_neuronx/__init__.py,,\n", encoding="utf-8")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("torch-neuronx==1.0\nnot-there==3\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert any("placeholder" in one for one in packages.problems(constraints)) is found
    if found:
        with pytest.raises(SystemExit, match="placeholder"):
            packages.main(["check", str(constraints)])


def test_a_version_that_is_not_the_pinned_one_fails_the_build(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("ray==2.0.0\n", encoding="utf-8")
    (problem,) = packages.problems(constraints)
    assert "2.0.0 is pinned" in problem
    constraints.write_text("ray==2.60.0  # comment\n", encoding="utf-8")
    packages.main(["check", str(constraints)])


def test_the_packages_of_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    packages.main(["list", str(ROOT / "pyproject.toml"), "neuron"])
    wanted = capsys.readouterr().out.splitlines()
    assert "ray[serve]==2.60.0" in wanted
    assert any(one.startswith("optimum-neuron") for one in wanted)
    assert not any(one.startswith("pytest") for one in wanted)
    with pytest.raises(SystemExit, match="no extra named tpu"):
        packages.main(["list", str(ROOT / "pyproject.toml"), "tpu"])
    with pytest.raises(SystemExit, match=r"packages\.py list"):
        packages.main([])


@named("*.sh")
def test_script(path: Path) -> None:
    assert script_problems(path) == []


def test_a_broken_script(tmp_path: Path) -> None:
    path = tmp_path / "script.sh"
    path.write_text("#!/bin/bash\nrm -rf $1/*\n", encoding="utf-8")
    found = script_problems(path)
    assert any("SC2086" in one for one in found)
    assert "no set -euo pipefail" in found


@pytest.mark.parametrize("path", files("iam/*.json"), ids=lambda p: p.name)
def test_policy(path: Path) -> None:
    assert list(policy_problems(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("action", "resource", "what"),
    [
        ("cloudwatch:PutMetricsData", "*", "no such action"),
        ("cloud-watch:PutMetricData", "*", "no such service"),
        ("s3:*", "*", "wildcard"),
        ("logs:PutLogEvents", "*", "name its resources"),
    ],
)
def test_a_broken_policy(action: str, resource: str, what: str) -> None:
    text = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",'
        f' "Action": "{action}", "Resource": "{resource}"}}]}}'
    )
    assert any(what in problem for problem in policy_problems(text))
    assert any("JSON" in problem for problem in policy_problems(text[:-1]))


# Those that the CloudWatch agent's source names, with dimension ClusterName.
_INSIGHTS = re.compile(
    r"(cluster|node|pod|container)_(gpu_(utilization|memory_utilization|memory_total|memory_used"
    r"|power_draw|temperature|tensor_core_utilization|limit|usage_total|reserved_capacity"
    r"|unreserved_capacity|available_capacity)|neuroncore_(utilization|limit|usage_total"
    r"|reserved_capacity|unreserved_capacity|available_capacity|memory_usage_\w+)"
    r"|neurondevice_hw_ecc_events_total|neuron_execution_(errors_total|latency)"
    r"|node_count|failed_node_count)"
)


def test_cloudwatch_dashboard_asks_for_what_is_there() -> None:
    board = json.loads((KUBERAY / "dashboards" / "cloudwatch.json").read_text(encoding="utf-8"))
    asked = [
        row[1]
        for widget in board["widgets"]
        for row in widget["properties"]["metrics"]
        if isinstance(row[0], str) and row[0] == "ContainerInsights"
    ]
    assert {"node_gpu_utilization", "node_neuroncore_utilization"} <= set(asked)
    assert [name for name in asked if not _INSIGHTS.fullmatch(name)] == []
    assert all(w["x"] >= 0 and w["x"] + w["width"] <= 24 for w in board["widgets"])
    places = [(w["x"], w["y"]) for w in board["widgets"]]
    assert len(set(places)) == len(places)


def test_installed_versions_are_those_of_the_schemas(crds: None) -> None:
    """What Helm installs is what the manifests were checked against."""
    pinned = dict(
        line.split("=", 1)
        for line in (KUBERAY / "helm" / "versions.env").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    )
    sources = (CRDS / "SOURCES.md").read_text(encoding="utf-8")
    for name, title in {
        "KARPENTER": "Karpenter AWS provider v",
        "KUBERAY_OPERATOR": "KubeRay v",
        "KEDA": "KEDA v",
        "AWS_LOAD_BALANCER_CONTROLLER": "AWS Load Balancer Controller v",
    }.items():
        assert title + pinned[name] in sources, name
    assert KUBERNETES.startswith(pinned["KUBERNETES"] + ".")
    for name, version in pinned.items():
        assert re.fullmatch(r"v?\d+(\.\d+)+(-eksbuild\.\d+)?", version), name


def test_helm_values_are_for_charts_that_are_installed() -> None:
    script = (KUBERAY / "helm" / "install.sh").read_text(encoding="utf-8")
    for path in files("helm/*.yaml"):
        assert f"chart {path.stem} " in script, path
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_docs_name_what_is_there() -> None:
    """Every path of ours in docs/eks.md exists."""
    text = DOCS.read_text(encoding="utf-8")
    paths = set(re.findall(r"(?<![\w./-])kuberay/[\w./-]*[\w]", text)) - {
        "kuberay/kuberay-operator"
    }
    assert len(paths) > 10
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
