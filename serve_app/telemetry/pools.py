"""The pools as Ray metrics (Prometheus names get the prefix ``ray_``).

Every ingress replica exports all of it, so take the maximum over replicas, not their sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from deployments.metrics import POOL, Metric
from serve_app.routing.snapshot import PoolSnapshot

READY = Metric(
    name="imagine_pool_ready", kind="gauge", about="replicas that take requests", labels=POOL
)
STARTING = Metric(
    name="imagine_pool_starting",
    kind="gauge",
    about="replicas being scheduled or loading the model",
    labels=POOL,
)
UNDER_WAY = Metric(
    name="imagine_pool_requests",
    kind="gauge",
    about="pictures sent to the pool and not yet answered",
    labels=POOL,
)
DOLLARS = Metric(
    name="imagine_pool_dollars_per_hour",
    kind="gauge",
    about="US dollars an hour of the replicas that are ready or starting, where prices are set",
    labels=POOL,
)
COST = Metric(
    name="imagine_pool_cost_per_1000",
    kind="gauge",
    about="US dollars for 1,000 default pictures at the full rate, where prices are set",
    labels=POOL,
)
WAITING = Metric(
    name="imagine_waiting",
    kind="gauge",
    about="pictures that wait in the ingress: for their fair turn, or for a first replica"
    " (capacity)",
    labels=("for",),
)
POOL_METRICS = (READY, STARTING, UNDER_WAY, DOLLARS, COST, WAITING)


class RayPoolMetrics:
    """Gauges of the pools; must be made inside a Serve replica."""

    def __init__(self) -> None:
        self._made = {metric.name: metric.make() for metric in POOL_METRICS}

    def show(self, pools: Sequence[PoolSnapshot], turns: int, capacity: int) -> None:
        """Show the pools, and how many pictures wait for a turn and for capacity."""
        made = self._made
        for pool in pools:
            tags = {"pool": pool.name, "accelerator": pool.accelerator}
            made[READY.name].set(pool.ready, tags=tags)
            made[STARTING.name].set(pool.state.starting, tags=tags)
            made[UNDER_WAY.name].set(pool.load.requests, tags=tags)
            if pool.price_per_hour is not None:
                paid = (pool.ready + pool.state.starting) * pool.price_per_hour
                made[DOLLARS.name].set(paid, tags=tags)
            if pool.cost_per_1000 is not None:
                made[COST.name].set(pool.cost_per_1000, tags=tags)
        made[WAITING.name].set(turns, tags={"for": "turn"})
        made[WAITING.name].set(capacity, tags={"for": "capacity"})
