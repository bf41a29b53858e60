"""Monitors, alerts and dashboards that ask for what exists."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import ray

from deployments.metrics import SECONDS
from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, title
from tests.kuberay.rules.references import chosen
from tests.kuberay.rules.serving import configs
from tests.kuberay.rules.workers import ports

ROOT = Path(__file__).resolve().parents[3]
# The operator adds this port to every Ray pod.
_ADDED_PORTS = frozenset({"metrics"})
_FOREIGN = ("karpenter_", "kube_", "DCGM_", "neuroncore_", "neurondevice_", "execution_", "up",
            "container_", "node_", "keda_", "kuberay_", "neuron")  # fmt: skip
_HISTOGRAM = re.compile(r"_(bucket|count|sum|total)$")


def expressions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every PromQL expression: of rules, KEDA triggers and Grafana panels."""
    for one in manifest.all("PrometheusRule"):
        for group in one["spec"].get("groups", []):
            for entry in group["rules"]:
                name = entry.get("alert") or entry.get("record")
                yield f"{title(one)} {name}", str(entry["expr"])
    for one in manifest.all("ScaledObject", "ScaledJob"):
        for trigger in one["spec"].get("triggers") or []:
            if trigger.get("type") == "prometheus":
                yield title(one), trigger["metadata"].get("query", "")
    for one in manifest.all("ConfigMap"):
        for name, text in (one.get("data") or {}).items():
            if "grafana" in str(one["metadata"]).lower() and name.endswith(".json"):
                for expression in dashboard_expressions(text):
                    yield f"{title(one)} {name}", expression


def dashboard_expressions(text: str) -> list[str]:
    """``expr`` of every panel of a Grafana dashboard.

    Raises:
        json.JSONDecodeError: it is not JSON.
    """
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("expr"), str):
                found.append(value["expr"])
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(json.loads(text))
    return found


def without_variables(expression: str) -> str:
    """``expression`` with Grafana's variables filled in."""
    expression = re.sub(r"\[\$\w+\]|\[\$\{\w+\}\]", "[5m]", expression)
    return re.sub(r"\$\{?\w+(:\w+)?\}?", "x", expression)


@rule
def promql_parses(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every expression is PromQL."""
    for where, expression in expressions(manifest):
        try:
            promql_parser.parse(without_variables(expression))
        except ValueError as error:
            yield where, f"not PromQL: {error}: {expression[:120]}"


def metric_names(expression: str) -> set[str]:
    """Metrics that ``expression`` asks for; empty where it does not parse."""
    try:
        tree = promql_parser.parse(without_variables(expression))
    except ValueError:
        return set()
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name or "")
        for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
            inner = getattr(node, name, None)
            if inner is not None and not isinstance(inner, str):
                walk(inner)
        arguments = getattr(node, "args", None)
        for inner in arguments if isinstance(arguments, list) else []:
            walk(inner)

    walk(tree)
    return found - {""}


@functools.cache
def exported() -> frozenset[str]:
    """Names of metrics in this package's and Ray's sources, with the prefix that Ray adds."""
    word = re.compile(r'"([a-z][a-z0-9_]{5,})"')
    ray_home = Path(ray.__file__).parent
    files = [
        *(ROOT / "serve_app" / "telemetry").glob("*.py"),
        *(ray_home / "serve" / "_private").rglob("*.py"),
        *(ray_home / "dashboard" / "modules" / "reporter").rglob("*.py"),
        *(ray_home / "dashboard" / "modules" / "metrics").rglob("*.py"),
        ray_home / "autoscaler" / "_private" / "prom_metrics.py",
    ]
    names: set[str] = set()
    for path in files:
        names |= set(word.findall(path.read_text(encoding="utf-8")))
        names |= {n.removeprefix("ray_") for n in re.findall(r"\bray_[a-z0-9_]+", path.read_text())}
    return frozenset(f"ray_{name}" for name in names) | frozenset(
        f"autoscaler_{name}" for name in names
    )


@rule
def metrics_exist(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every metric asked for is exported by us, by Ray, by a known neighbour, or recorded here."""
    recorded = {
        entry["record"]
        for one in manifest.all("PrometheusRule")
        for group in one["spec"].get("groups", [])
        for entry in group["rules"]
        if "record" in entry
    }
    for where, expression in expressions(manifest):
        for name in sorted(metric_names(expression)):
            stem = _HISTOGRAM.sub("", name)
            if not (
                name in recorded
                or name.startswith(_FOREIGN)
                or {name, stem} & exported()
                or {f"{stem}_total"} & exported()
            ):
                yield where, f"nothing exports or records {name}"


@rule
def monitors_find_their_ports(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A monitor's port is a port of the pods that it chooses, by name."""
    for one in manifest.all("PodMonitor"):
        namespace = one["metadata"].get("namespace")
        for pod in chosen(manifest, one["spec"].get("selector", {}), namespace):
            named = {name for container in pod.containers for name in ports(container)}
            named |= _ADDED_PORTS if pod.group else set()
            for endpoint in one["spec"].get("podMetricsEndpoints", []):
                if endpoint.get("port") not in named:
                    yield (
                        title(one),
                        f"port {endpoint.get('port')!r}: {pod.where} has {sorted(named)}",
                    )
    heads = [pod for pod in manifest.ray_pods() if pod.role == "head"]
    for one in manifest.all("ServiceMonitor"):
        for endpoint in one["spec"].get("endpoints", []):
            for pod in heads:
                named = set(ports(pod.containers[0])) | _ADDED_PORTS
                if endpoint.get("port") not in named:
                    yield (
                        title(one),
                        f"port {endpoint.get('port')!r}: {pod.where} has {sorted(named)}",
                    )


@rule
def alerts_say_what_to_do(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every alert has a severity and a summary."""
    for one in manifest.all("PrometheusRule"):
        for group in one["spec"].get("groups", []):
            for entry in group["rules"]:
                if "alert" in entry and not (
                    entry.get("labels", {}).get("severity")
                    and entry.get("annotations", {}).get("summary")
                ):
                    yield f"{title(one)} {entry['alert']}", "no severity or no summary"


@rule
def objective_is_measured(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Alerts count requests slower than ``slo_s``, which must be a bound of the histogram."""
    objectives = {
        float(deployment["user_config"]["slo_s"])
        for _, config in configs(manifest)
        for deployment in config["applications"][0].get("deployments", [])
        if "slo_s" in (deployment.get("user_config") or {})
    }
    for where, expression in expressions(manifest):
        for bound in re.findall(r'took_seconds_bucket\{[^}]*le="([\d.]+)"', expression):
            if objectives - {float(bound)}:
                yield where, f'le="{bound}", but slo_s is {sorted(objectives)}'
            if not any(math.isclose(float(bound), known) for known in SECONDS):
                yield where, f'le="{bound}" is not one of the histogram\'s bounds {SECONDS}'


@rule
def expressions_can_be_true(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No mean of ratios, which one 0/0 makes NaN; no increase of a counter that only ever is 1."""
    for where, expression in expressions(manifest):
        if re.search(r"avg_over_time\(\s*[\w:]*ratio", expression):
            yield where, "a mean of ratios is NaN after one quiet minute; divide sums"
        if re.search(r"(increase|i?rate)\(\s*\w*replica_starts", expression):
            yield where, "each replica has a series of its own, which is 1: count new series"


@rule
def json_in_config_maps(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What is named .json is JSON."""
    for one in manifest.all("ConfigMap"):
        for name, text in (one.get("data") or {}).items():
            if name.endswith(".json"):
                try:
                    json.loads(text)
                except json.JSONDecodeError as error:
                    yield title(one), f"{name} is not JSON: {error}"
