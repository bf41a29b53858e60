"""Rules that schemas cannot say; importing this registers them all."""

from tests.kuberay.rules import (
    autoscaler,
    ingress,
    karpenter,
    keda,
    network,
    observability,
    operator,
    placement,
    pods,
    references,
    schema,
    secrets,
    serving,
    target_groups,
    workers,
)

__all__ = [
    "autoscaler",
    "ingress",
    "karpenter",
    "keda",
    "network",
    "observability",
    "operator",
    "placement",
    "pods",
    "references",
    "schema",
    "secrets",
    "serving",
    "target_groups",
    "workers",
]
