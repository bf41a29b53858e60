"""What the Jobs run is what there is to run."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from compile.arguments import parse_arguments
from deployments.options import Framework
from tests.kuberay import rendering
from tests.kuberay.manifest import Manifest, Workload

COMPILE = [path for path in rendering.additions() if path.startswith("jobs/compile/")]


def job(manifest: Manifest) -> Workload:
    (found,) = (pod for pod in manifest.workloads() if pod.role == "Job")
    return found


def arguments(manifest: Manifest) -> list[str]:
    """Of the Job's container, with its variables filled in as Kubernetes does."""
    container = job(manifest).containers[0]
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found = manifest.find("ConfigMap", source["configMapRef"]["name"])
        assert found is not None
        values |= found["data"]
    values |= {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}
    filled = [re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], a) for a in container["args"]]
    assert not any("$" in one for one in filled), filled
    return filled


@pytest.mark.parametrize("path", COMPILE)
def test_compile_job(path: str, kubectl: str) -> None:
    """Its command line is one that ``python -m compile`` takes, for the hardware of its node."""
    manifest = rendering.build(path)
    assert job(manifest).containers[0]["command"] == ["python", "-m", "compile"]
    given = arguments(manifest)
    accelerator = next(a.removeprefix("--accelerator=") for a in given if "accelerator" in a)
    device = next(iter(job(manifest).accelerators()), "")
    kinds: dict[str, Framework] = {"nvidia.com/gpu": "cuda", "aws.amazon.com/neuron": "neuron"}
    assert accelerator == kinds.get(device, "cpu")
    batches = next(a.partition("=")[2].split(",") for a in given if a.startswith("--batch="))
    assert len(batches) == 1 if accelerator == "neuron" else "2" in batches
    parsed = parse_arguments(given)
    assert parsed.accelerator == accelerator
    assert parsed.publish


def test_jobs_compile_the_model_that_is_served(kubectl: str) -> None:
    from kuberay.fleet import load

    served = {tuple(v.model.values()) for v in load().variants.values() if v.families}
    for path in COMPILE:
        given = dict(one[2:].split("=", 1) for one in arguments(rendering.build(path)))
        assert {(given["model"], given["revision"])} == served


@pytest.mark.parametrize(
    ("overlay", "services"),
    [("eks", {"imagine"}), ("eks-two-services", {"imagine-gpu", "imagine-neuron"})],
)
def test_smoke_test_asks_services_that_are_there(
    overlay: str, services: set[str], kubectl: str
) -> None:
    manifest = rendering.with_addition(f"jobs/smoke_test/{overlay}", overlay)
    words = job(manifest).containers[0]["args"]
    urls = [urlsplit(word) for word in words if "://" in word]
    assert {url.hostname for url in urls} == services
    for url in urls:
        service = manifest.find("Service", url.hostname or "")
        assert service is not None, url
        assert (url.port or 80) in {port["port"] for port in service["spec"]["ports"]}
