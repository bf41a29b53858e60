"""Mistakes in RayServices: every published one is refused by the operator."""

from __future__ import annotations

from tests.kuberay.manifest import Manifest
from tests.kuberay.mutations.base import (
    GPU,
    NEURON,
    breaks,
    cluster,
    container,
    group,
    service,
    the,
)


@breaks("head-service-name")
def head_service_named(manifest: Manifest) -> None:
    cluster(manifest)["headGroupSpec"]["headService"] = {"metadata": {"name": "imagine-head"}}


@breaks("custom-schema")
def scheduler_name_outside_spec(manifest: Manifest) -> None:
    group(manifest, NEURON)["template"]["schedulerName"] = "my-scheduler"


@breaks("custom-schema")
def serve_config_of_v1alpha1(manifest: Manifest) -> None:
    one = the(manifest, "RayService")
    one["apiVersion"] = "ray.io/v1alpha1"
    one["spec"]["serveConfig"] = {"importPath": "dogbooth:entrypoint"}


@breaks("ray-api-version")
def version_on_its_way_out(manifest: Manifest) -> None:
    the(manifest, "RayService")["apiVersion"] = "ray.io/v1alpha1"


@breaks("ray-service-name")
def name_of_48_characters(manifest: Manifest) -> None:
    the(manifest, "RayService")["metadata"]["name"] = "i" * 48


@breaks("neuron-cores-declared")
def neuron_cores_left_to_the_operator(manifest: Manifest) -> None:
    """The operator derives them from neuroncore alone, and the autoscaler from nothing."""
    group(manifest, NEURON)["resources"].pop("neuron_cores")


@breaks("readable-by-ray")
def start_resources_as_bare_json(manifest: Manifest) -> None:
    found = group(manifest, NEURON)
    found.pop("resources")
    found["rayStartParams"] = {"resources": '{"neuron_cores": 2}'}


@breaks("readable-by-ray")
def start_resources_as_a_fraction(manifest: Manifest) -> None:
    found = group(manifest, NEURON)
    found.pop("resources")
    found["rayStartParams"] = {"resources": "'{\"neuron_cores\": 2.0}'"}


@breaks("resource-spelling")
def cpu_in_small_letters(manifest: Manifest) -> None:
    group(manifest)["resources"]["cpu"] = "1"


@breaks("resources-said-once")
def resources_twice(manifest: Manifest) -> None:
    group(manifest, GPU)["rayStartParams"] = {"num-gpus": "1"}


@breaks("custom-schema")
def start_param_as_a_number(manifest: Manifest) -> None:
    group(manifest)["rayStartParams"] = {"metrics-export-port": 8080}


@breaks("labels-not-as-start-param")
def labels_as_start_param(manifest: Manifest) -> None:
    group(manifest)["rayStartParams"] = {"labels": "family=g5"}


@breaks("idle-timeout-needs-v2")
def autoscaler_version_unsaid(manifest: Manifest) -> None:
    del cluster(manifest)["autoscalerOptions"]["version"]


@breaks("restart-policy-never")
def restart_always(manifest: Manifest) -> None:
    group(manifest)["template"]["spec"]["restartPolicy"] = "Always"


@breaks("gcs-options-alone")
def redis_in_the_environment(manifest: Manifest) -> None:
    head = cluster(manifest)["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["env"] = [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}]


@breaks("gcs-options-alone")
def fault_tolerance_by_annotation(manifest: Manifest) -> None:
    metadata = the(manifest, "RayService")["metadata"]
    metadata.setdefault("annotations", {})["ray.io/ft-enabled"] = "true"


@breaks("gcs-fault-tolerance")
def no_redis(manifest: Manifest) -> None:
    cluster(manifest).pop("gcsFaultToleranceOptions")


@breaks("token-authentication")
def no_authentication(manifest: Manifest) -> None:
    cluster(manifest).pop("authOptions")


@breaks("token-authentication")
def kubernetes_tokens(manifest: Manifest) -> None:
    cluster(manifest)["authOptions"]["enableK8sTokenAuth"] = True


@breaks("same-ray-everywhere")
def an_old_ray(manifest: Manifest) -> None:
    """That of the published Stable Diffusion services."""
    cluster(manifest)["rayVersion"] = "2.11.0"


@breaks("serve-port-named")
def no_serve_port(manifest: Manifest) -> None:
    head = cluster(manifest)["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["ports"] = [{"name": "dashboard", "containerPort": 8265}]


@breaks("worker-readiness")
def readiness_left_to_the_operator(manifest: Manifest) -> None:
    container(group(manifest)).pop("readinessProbe")


@breaks("drained-before-stopped")
def no_prestop(manifest: Manifest) -> None:
    container(group(manifest)).pop("lifecycle")


@breaks("drained-before-stopped")
def default_grace(manifest: Manifest) -> None:
    group(manifest)["template"]["spec"].pop("terminationGracePeriodSeconds")


@breaks("always-one-to-serve")
def everything_to_zero(manifest: Manifest) -> None:
    for pod in manifest.ray_pods():
        if pod.role == "worker":
            pod.group.update({"minReplicas": 0, "replicas": 0})


@breaks("head-out-of-service")
def head_serves(manifest: Manifest) -> None:
    service(manifest).pop("excludeHeadPodFromServeSvc")


@breaks("head-stays")
def head_may_be_moved(manifest: Manifest) -> None:
    cluster(manifest)["headGroupSpec"]["template"]["metadata"].pop("annotations")


@breaks("head-runs-no-work")
def head_offers_cpus(manifest: Manifest) -> None:
    head = cluster(manifest)["headGroupSpec"]
    head.pop("resources", None)
    head["rayStartParams"] = {}


@breaks("initializing-timeout")
def gives_up_for_ever_after_five_minutes(manifest: Manifest) -> None:
    metadata = the(manifest, "RayService")["metadata"]
    metadata.setdefault("annotations", {})["ray.io/initializing-timeout"] = "5m"


@breaks("deprecated-fields")
def thresholds_that_do_nothing(manifest: Manifest) -> None:
    service(manifest)["serviceUnhealthySecondThreshold"] = 900


@breaks("upgrade-strategy")
def incremental_upgrade_half_said(manifest: Manifest) -> None:
    service(manifest)["upgradeStrategy"] = {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {"stepSizePercent": 20, "intervalSeconds": 10},
    }


@breaks("pending-nodes-time-out")
def an_hour_until_another_family(manifest: Manifest) -> None:
    cluster(manifest)["autoscalerOptions"].pop("env")


@breaks("pending-nodes-time-out")
def autoscaler_settings_on_the_head(manifest: Manifest) -> None:
    head = cluster(manifest)["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["env"] = [{"name": "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S", "value": "900"}]


@breaks("growth-is-appended")
def plain_group_at_the_end(manifest: Manifest) -> None:
    cluster(manifest)["workerGroupSpecs"].reverse()


@breaks("old-cluster-outlives-requests")
def old_cluster_gone_in_a_minute(manifest: Manifest) -> None:
    service(manifest).pop("rayClusterDeletionDelaySeconds")


@breaks("dashboard-private")
def dashboard_by_load_balancer(manifest: Manifest) -> None:
    cluster(manifest)["headGroupSpec"]["serviceType"] = "LoadBalancer"
