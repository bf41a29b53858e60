"""Weights from measured throughput, latency and price."""

from __future__ import annotations

from serve_app.routing.policies.shared_out import SharedOut
from serve_app.routing.snapshot import PoolSnapshot


class CostPolicy(SharedOut, name="cost"):
    """A pool's weight is what it can paint within the objective, per dollar that a picture costs.

    With ``n`` replicas that each paint ``T`` pictures an hour within the latency objective and
    cost ``C`` dollars an hour, a picture costs ``c = C / T`` dollars, and the weight is
    ``n * T / c = n * T**2 / C``: by capacity, so that a large pool is not starved nor a small one
    flooded, and by cheapness, so that of two pools of one size the cheaper gets more. A pool
    that misses the objective even alone has ``T = 0``: it is used only when no other is left.

    The formula printed with the sample that pools like these descend from, ``c / L`` (what a
    picture costs over its latency), grows with the cost and so gives the cheapest pool the least.
    """

    needs_prices = True

    def weight(self, pool: PoolSnapshot) -> float:
        """Pictures an hour per dollar a picture; 0 while the pool's speed is not known."""
        if pool.profile is None or not pool.price_per_hour:
            return 0.0
        per_hour = pool.profile.images_per_minute * 60
        if pool.profile.latency_s > self.options.slo_s:
            return 0.0
        return pool.ready * per_hour**2 / pool.price_per_hour
