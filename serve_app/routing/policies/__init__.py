"""Routing policies: one small class each; importing a module registers its policy."""

from serve_app.routing.policies import capacity, cost, failover, latency, weighted
from serve_app.routing.policies.base import POLICIES, Candidate, Policy, PolicyOptions

__all__ = [
    "POLICIES",
    "Candidate",
    "Policy",
    "PolicyOptions",
    "capacity",
    "cost",
    "failover",
    "latency",
    "weighted",
]
