"""Broken copies: each makes one mistake that people make; importing this registers them all."""

from tests.kuberay.mutations import edge, karpenter, more, pods, rayservice, serving
from tests.kuberay.mutations.base import MUTATIONS, AbsentError, Mutation

__all__ = [
    "MUTATIONS",
    "AbsentError",
    "Mutation",
    "edge",
    "karpenter",
    "more",
    "pods",
    "rayservice",
    "serving",
]
