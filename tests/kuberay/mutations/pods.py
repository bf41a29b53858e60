"""Mistakes in pods, secrets and references."""

from __future__ import annotations

from tests.kuberay.manifest import Manifest
from tests.kuberay.mutations.base import (
    GPU,
    NEURON,
    breaks,
    cluster,
    container,
    group,
    the,
)


@breaks("device-resources")
def device_that_karpenter_does_not_know(manifest: Manifest) -> None:
    limits = container(group(manifest, NEURON))["resources"]["limits"]
    limits["aws.amazon.com/neurondevice"] = "1"


@breaks("device-resources")
def half_a_gpu(manifest: Manifest) -> None:
    resources = container(group(manifest, GPU))["resources"]
    resources["requests"].pop(GPU, None)
    resources["limits"][GPU] = "0.5"


@breaks("images-pinned")
def latest_image(manifest: Manifest) -> None:
    found = container(group(manifest, GPU))
    found["image"] = found["image"].rpartition(":")[0] + ":latest"


@breaks("images-pinned")
def image_without_a_tag(manifest: Manifest) -> None:
    found = container(group(manifest))
    found["image"] = found["image"].rpartition(":")[0]


@breaks("nothing-privileged")
def privileged(manifest: Manifest) -> None:
    container(group(manifest, NEURON))["securityContext"]["privileged"] = True


@breaks("nothing-privileged")
def host_path(manifest: Manifest) -> None:
    spec = group(manifest, NEURON)["template"]["spec"]
    spec["volumes"] = [{"name": "dev", "hostPath": {"path": "/dev"}}]


@breaks("nothing-privileged")
def autoscaler_as_root(manifest: Manifest) -> None:
    cluster(manifest)["autoscalerOptions"]["securityContext"] = {"runAsUser": 0}


@breaks("resources-given")
def no_memory_limit(manifest: Manifest) -> None:
    container(group(manifest))["resources"].pop("limits")


@breaks("pod-template-schema")
def misspelt_field_of_a_pod(manifest: Manifest) -> None:
    group(manifest)["template"]["spec"]["terminationGracePeriodSecond"] = 30


@breaks("core-schema")
def misspelt_field_of_a_budget(manifest: Manifest) -> None:
    the(manifest, "PodDisruptionBudget")["spec"]["maxUnavailble"] = 1


@breaks("jobs-end")
def job_without_end(manifest: Manifest) -> None:
    the(manifest, "Job")["spec"].pop("activeDeadlineSeconds")


@breaks("no-secret-objects")
def secret_with_a_hole(manifest: Manifest) -> None:
    namespace = the(manifest, "RayService")["metadata"]["namespace"]
    manifest.objects.append(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hf-token", "namespace": namespace},
            "stringData": {"hf-token": "${HUGGING_FACE_HUB_TOKEN}"},
        }
    )


@breaks("nothing-to-fill-in")
def image_with_a_hole(manifest: Manifest) -> None:
    container(group(manifest))["image"] = "${ACCOUNT_ID}.example/imagine:1.0"


@breaks("no-literal-secrets")
def token_spelt_out(manifest: Manifest) -> None:
    container(group(manifest))["env"] = [{"name": "HF_TOKEN", "value": "made-up"}]


@breaks("nothing-private")
def somebodys_account(manifest: Manifest) -> None:
    found = container(group(manifest))
    found["image"] = "999988887777.dkr.ecr.us-west-2.amazonaws.com/imagine:1.0"


@breaks("nothing-private")
def an_access_key(manifest: Manifest) -> None:
    container(group(manifest))["args"] = ["--key=AKIA" + "ABCDEFGHIJKLMNOP"]


@breaks("service-accounts-exist")
def default_service_account(manifest: Manifest) -> None:
    group(manifest)["template"]["spec"]["serviceAccountName"] = "default"


@breaks("priorities-exist")
def unknown_priority(manifest: Manifest) -> None:
    group(manifest)["template"]["spec"]["priorityClassName"] = "important"


@breaks("namespaces-exist")
def no_namespace(manifest: Manifest) -> None:
    the(manifest, "RayService")["metadata"].pop("namespace")


@breaks("selectors-choose")
def budget_for_nobody(manifest: Manifest) -> None:
    the(manifest, "PodDisruptionBudget")["spec"]["selector"] = {"matchLabels": {"app": "ray"}}


@breaks("once-only")
def the_same_object_twice(manifest: Manifest) -> None:
    manifest.objects.append(the(manifest, "RayService"))
