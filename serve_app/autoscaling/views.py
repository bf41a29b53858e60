"""What the planner goes by: plain values, filled in by the Ray adapter or by the simulator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """One pool at one moment, as the planner sees it.

    Attributes:
        name: the pool's name.
        ready: replicas that serve.
        target: replicas asked for at present.
        unplaced: of ``target``, how many no present node could hold. They wait for hardware; others
            that are not ready yet wait for their model.
        capacity: row-steps a second that one replica does within the latency objective; 0 for a
            pool that misses it even alone.
        price: US dollars per replica and hour.
        min_replicas, max_replicas: bounds on the target.
        per_node: replicas that share one node, which is paid for as a whole.
        provisioning_s: seconds within which a node comes, if it comes at all.
        start_s: seconds from a node to a ready replica.
    """

    name: str
    ready: int
    target: int
    unplaced: int = 0
    capacity: float
    price: float
    min_replicas: int = 0
    max_replicas: int = 1
    per_node: int = 1
    provisioning_s: float = 300.0
    start_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What clients want at one moment, whether or not it could be served.

    Attributes:
        row_steps_per_s: work that arrived, refused requests included, averaged over a short window.
        pictures_per_s: requests of it.
        backlog: row-steps that wait for a place in a batch.
        p95_s: 95th percentile of the seconds from request to answer, each divided by how many times
            the default request's work it was (``Work.allowance``); ``None`` if unknown.
    """

    row_steps_per_s: float
    pictures_per_s: float
    backlog: float = 0.0
    p95_s: float | None = None
