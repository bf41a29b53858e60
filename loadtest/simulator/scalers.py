"""What decides how many replicas each pool should have, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.autoscaling.views import Demand, PoolView


@dataclass(frozen=True, slots=True)
class PoolTraffic:
    """What one pool had to do of late.

    Attributes:
        arrivals_per_s: requests sent there, mean of the last 60 s.
        ongoing: requests there and not yet answered, now.
        images_per_s: pictures answered, mean of the last 60 s.
    """

    arrivals_per_s: float
    ongoing: int
    images_per_s: float


@dataclass(frozen=True, slots=True)
class Observation:
    """The service at one moment.

    Attributes:
        pools: every pool, in the scenario's order.
        demand: of all clients; rates are means of the last 30 s, ``p95_s`` is of the last 60 s.
        traffic: by pool.
    """

    pools: Sequence[PoolView]
    demand: Demand
    traffic: Mapping[str, PoolTraffic]


class Scaler(Protocol):
    """Sets targets every ``period_s`` simulated seconds, first after one period."""

    @property
    def period_s(self) -> float:
        """Seconds between decisions."""
        ...

    def decide(self, now_s: float, view: Observation) -> Mapping[str, int]:
        """Replicas wanted by pool; pools left out keep theirs, bounds are enforced."""
        ...
