"""Fixed weights, as a load balancer's target groups have them."""

from __future__ import annotations

from serve_app.routing.policies.shared_out import SharedOut
from serve_app.routing.snapshot import PoolSnapshot


class WeightedPolicy(SharedOut, name="weighted"):
    """Each available pool's share is its configured weight."""

    def weight(self, pool: PoolSnapshot) -> float:
        """The weight in force."""
        return pool.weight
