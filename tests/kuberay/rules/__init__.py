"""Rules that schemas cannot say; importing this registers them all."""

from tests.kuberay.rules import (
    autoscaler,
    ingress,
    karpenter,
    keda,
    network,
    observability,
    operator,
    pods,
    references,
    schema,
    secrets,
    serving,
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
    "pods",
    "references",
    "schema",
    "secrets",
    "serving",
    "workers",
]
