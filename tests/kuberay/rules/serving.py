"""``serveConfigV2``: what is served, and on which group's nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.live import LiveSettings
from serve_app.settings import INGRESS, Settings
from serve_app.validation import SettingsError
from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, Object, Workload, title
from tests.kuberay.rules.workers import SERVE_PORT, sleep_s


def configs(manifest: Manifest) -> Iterator[tuple[Object, dict[str, Any]]]:
    """Every RayService with its Serve config, where that is a mapping."""
    for one in manifest.all("RayService"):
        try:
            config = yaml.load(one["spec"].get("serveConfigV2", ""), yaml.CSafeLoader)
        except yaml.YAMLError:
            continue  # told by serve_config_parses
        if isinstance(config, dict):
            yield one, config


def settings(config: dict[str, Any]) -> Settings | None:
    """The settings of the one application, if they can be read."""
    try:
        return Settings.parse(config["applications"][0]["args"])
    except (SettingsError, KeyError, IndexError, TypeError):
        return None  # told by serve_config_parses


def offering(manifest: Manifest, owner: Object, needs: dict[str, float]) -> list[Workload]:
    """The worker groups of ``owner`` whose nodes have what ``needs`` names, by Ray's own count."""
    found = []
    for pod in manifest.ray_pods():
        if pod.owner is not owner:
            continue
        try:
            offered = pod.ray_resources()
        except Exception:  # told by readable_by_ray
            continue
        if all(offered.get(name, 0.0) >= amount for name, amount in needs.items()):
            found.append(pod)
    return found


@rule
def serve_config_parses(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Ray's own schema, then this service's settings, take ``serveConfigV2``."""
    for one in manifest.all("RayService"):
        try:
            config = yaml.load(one["spec"]["serveConfigV2"], yaml.CSafeLoader)
            ServeDeploySchema.model_validate(config)
            (application,) = config["applications"]
            parsed = Settings.parse(application["args"])
        except Exception as error:
            yield title(one), f"serveConfigV2: {type(error).__name__}: {error}"
            continue
        policy = application.get("autoscaling_policy", {})
        if policy.get("policy_kwargs", {}).get("pools") != application["args"]["pools"]:
            yield title(one), "the autoscaling policy sees other pools than args"
        declared = {d["name"]: d for d in application.get("deployments", [])}
        if set(declared) != {INGRESS, *parsed.pools}:
            yield title(one), f"deployments {sorted(declared)} are not Ingress and the pools"
        try:
            LiveSettings.parse(declared.get(INGRESS, {}).get("user_config") or {}, parsed)
        except SettingsError as error:
            yield title(one), f"serveConfigV2: user_config: {error}"


@rule
def proxies_reachable(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """In a pod the proxy listens on all addresses, on the serve port, on every node."""
    for one, config in configs(manifest):
        http = config.get("http_options") or {}
        if http.get("host") != "0.0.0.0" or http.get("port", 8000) != SERVE_PORT:
            yield title(one), f"http_options {http}: host 0.0.0.0 and port {SERVE_PORT}"
        if config.get("proxy_location", "EveryNode") != "EveryNode":
            yield title(one), "proxy_location is not EveryNode, but the head is out of service"


@rule
def timeouts_in_order(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A request's own limit answers first, then the proxy's; a pod waits as long as drains take."""
    for one, config in configs(manifest):
        parsed = settings(config)
        if parsed is None:
            continue
        http, limit = config.get("http_options") or {}, parsed.limits.request_timeout_s
        if not limit < (http.get("request_timeout_s") or float("inf")):
            yield title(one), f"http_options.request_timeout_s is not above {limit:g}"
        served = [("the ingress", _ingress_needs(parsed), parsed.ingress.drain_s)]
        served += [(f"pool {n}", p.resources.needs(), p.drain_s) for n, p in parsed.pools.items()]
        for what, needs, drain in served:
            for pod in offering(manifest, one, needs):
                # Ray's processes live on while preStop runs, and are stopped at once afterwards.
                if pod.role == "worker" and (sleep_s(pod) or 0) < drain:
                    yield pod.where, f"preStop {sleep_s(pod)} s: below drain_s {drain:g} of {what}"


def _ingress_needs(parsed: Settings) -> dict[str, float]:
    needs = {"CPU": parsed.ingress.num_cpus, **parsed.ingress.resources}
    return {name: amount for name, amount in needs.items() if amount > 0}


@rule
def pools_have_their_group(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A pool's replicas fit the nodes of exactly one worker group, the pool's own."""
    for one, config in configs(manifest):
        parsed = settings(config)
        homes: dict[str, str] = {}
        for name, pool in (parsed.pools if parsed else {}).items():
            needs = pool.resources.needs()
            found = [pod for pod in offering(manifest, one, needs) if pod.role == "worker"]
            if len(found) != 1:
                groups = [pod.group["groupName"] for pod in found]
                yield title(one), f"pool {name} ({needs}) fits the groups {groups}, not one"
                continue
            (pod,) = found
            group = pod.group["groupName"]
            if group in homes and pool.resources.special:
                yield title(one), f"pools {homes[group]} and {name} share group {group}"
            homes[group] = name
            if bool(pod.accelerators()) != (pool.framework in {"cuda", "neuron"}):
                yield title(one), f"pool {name} ({pool.framework}) lands on group {group}"
            device = "nvidia.com/gpu" if pool.framework == "cuda" else "aws.amazon.com/neuron"
            if pod.accelerators() and not any(d.startswith(device) for d in pod.accelerators()):
                yield title(one), f"pool {name} ({pool.framework}) lands on {pod.accelerators()}"


@rule
def ingress_on_steady_nodes(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The ingress fits groups without accelerators only, with room for all its replicas."""
    for one, config in configs(manifest):
        parsed = settings(config)
        if parsed is None:
            continue
        needs = _ingress_needs(parsed)
        found = offering(manifest, one, needs)
        dear = [pod.group.get("groupName", "head") for pod in found if pod.accelerators()]
        if dear or any(pod.role == "head" for pod in found):
            yield title(one), f"the ingress ({needs}) fits {dear or ['head']}: give it a resource"
        room = sum(
            (pod.group.get("minReplicas") or 0)
            * int(min(pod.ray_resources()[name] / amount for name, amount in needs.items()))
            for pod in found
            if pod.role == "worker" and needs
        )
        if room < parsed.ingress.replicas:
            yield title(one), f"room for {room} of {parsed.ingress.replicas} ingress replicas"


@rule
def groups_reach_their_maximum(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A pool's group may grow to the pool's most replicas, and starts at its least."""
    for one, config in configs(manifest):
        parsed = settings(config)
        for name, pool in (parsed.pools if parsed else {}).items():
            needs = pool.resources.needs()
            for pod in offering(manifest, one, needs):
                if pod.role != "worker" or not pod.accelerators():
                    continue
                offered = pod.ray_resources()
                each = int(min(offered[r] / amount for r, amount in needs.items()))
                if pod.group["maxReplicas"] * each < pool.max_replicas:
                    yield (
                        pod.where,
                        f"maxReplicas holds fewer than pool {name}'s {pool.max_replicas}",
                    )


@rule
def accelerator_groups_offer_no_cpu(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Ray work that asks for CPUs alone must not land on accelerators."""
    for pod in manifest.ray_pods():
        if pod.role != "worker" or not pod.accelerators():
            continue
        try:
            cpus = pod.ray_resources().get("CPU", 0.0)
        except Exception:  # told by readable_by_ray
            continue
        if cpus:
            yield pod.where, f"offers Ray {cpus:g} CPUs; declare resources CPU: '0'"


@rule
def code_is_in_the_image(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No ``runtime_env`` that downloads code at start: it delays and changes what runs."""
    for one, config in configs(manifest):
        for application in config.get("applications", []):
            env = application.get("runtime_env") or {}
            bad = [
                key for key in ("working_dir", "py_modules", "pip", "conda", "uv") if env.get(key)
            ]
            if bad:
                yield title(one), f"runtime_env has {bad}; put it into the image"
