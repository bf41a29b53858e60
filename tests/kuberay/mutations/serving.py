"""Mistakes in what is served and watched."""

from __future__ import annotations

from typing import Any

from tests.kuberay.manifest import Manifest
from tests.kuberay.mutations.base import GPU, NEURON, AbsentError, breaks, group, serve, the


@breaks("serve-config-parses")
def misspelt_setting(manifest: Manifest) -> None:
    serve(manifest, lambda c: c["applications"][0]["args"]["pools"].setdefault("g5", {})
          .update(max_replica=4))  # fmt: skip


@breaks("serve-config-parses")
def policy_with_other_pools(manifest: Manifest) -> None:
    serve(manifest, lambda c: c["applications"][0]["autoscaling_policy"]["policy_kwargs"]["pools"]
          .popitem())  # fmt: skip


@breaks("proxies-reachable")
def proxy_on_loopback(manifest: Manifest) -> None:
    serve(manifest, lambda config: config["http_options"].update(host="127.0.0.1"))


@breaks("proxies-reachable")
def proxy_on_the_head_only(manifest: Manifest) -> None:
    serve(manifest, lambda config: config.update(proxy_location="HeadOnly"))


@breaks("pools-have-their-group")
def pool_that_any_gpu_suits(manifest: Manifest) -> None:
    """With two GPU families; with one only, its group is the one."""
    if sum(GPU in pod.accelerators() for pod in manifest.ray_pods()) < 2:
        raise AbsentError("one GPU family")

    def change(config: Any) -> None:
        application = config["applications"][0]
        for pools in (
            application["args"]["pools"],
            application["autoscaling_policy"]["policy_kwargs"]["pools"],
        ):
            pools["g5"]["resources"].pop("resources")

    serve(manifest, change)


@breaks("pools-have-their-group")
def pool_without_a_group(manifest: Manifest) -> None:
    group(manifest, NEURON)["resources"].pop("inf2", None)


@breaks("ingress-on-steady-nodes")
def ingress_anywhere(manifest: Manifest) -> None:
    group(manifest, GPU)  # AbsentError without accelerators
    serve(manifest, lambda c: c["applications"][0]["args"]["ingress"].pop("resources"))


@breaks("accelerator-groups-offer-no-cpu")
def accelerators_offer_cpus(manifest: Manifest) -> None:
    group(manifest, GPU)["resources"]["CPU"] = "3"


@breaks("groups-reach-their-maximum")
def group_smaller_than_its_pool(manifest: Manifest) -> None:
    group(manifest, NEURON)["maxReplicas"] = 1


@breaks("timeouts-in-order")
def drain_longer_than_the_pod_waits(manifest: Manifest) -> None:
    serve(manifest, lambda c: c["applications"][0]["args"]["ingress"].update(drain_s=3000))


@breaks("code-is-in-the-image")
def code_from_a_branch(manifest: Manifest) -> None:
    url = "https://github.com/example/example/archive/refs/heads/main.zip"
    serve(manifest, lambda c: c["applications"][0].update(runtime_env={"working_dir": url}))


@breaks("promql-parses")
def alert_that_is_no_promql(manifest: Manifest) -> None:
    the(manifest, "PrometheusRule")["spec"]["groups"][0]["rules"][0]["expr"] = "sum(rate(x[5m])"


@breaks("metrics-exist")
def alert_on_a_metric_of_nobody(manifest: Manifest) -> None:
    rules = the(manifest, "PrometheusRule")["spec"]["groups"][0]["rules"]
    rules[0]["expr"] = "ray_imagine_latency_seconds > 1"


@breaks("monitors-find-their-ports")
def monitor_of_another_port(manifest: Manifest) -> None:
    the(manifest, "PodMonitor")["spec"]["podMetricsEndpoints"] = [{"port": "http-metrics"}]


@breaks("objective-is-measured")
def another_objective_than_the_alerts(manifest: Manifest) -> None:
    the(manifest, "PrometheusRule")  # AbsentError without one

    def change(config: Any) -> None:
        config["applications"][0]["deployments"][0]["user_config"]["slo_s"] = 3

    serve(manifest, change)


@breaks("expressions-can-be-true")
def budget_as_a_mean_of_ratios(manifest: Manifest) -> None:
    rules = the(manifest, "PrometheusRule")["spec"]["groups"][0]["rules"]
    rules[0]["expr"] = "avg_over_time(imagine:objective_broken:ratio_rate5m[6h]) > 0.06"


@breaks("expressions-can-be-true")
def restarts_as_an_increase(manifest: Manifest) -> None:
    rules = the(manifest, "PrometheusRule")["spec"]["groups"][0]["rules"]
    rules[0]["expr"] = "increase(ray_serve_deployment_replica_starts_total[30m]) > 3"
