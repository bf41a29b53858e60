"""One situation to simulate: pools, traffic, routing, limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loadtest.simulator.arrivals import DAY_S, Arrivals
from loadtest.simulator.controllers import Controller
from loadtest.simulator.mix import DEFAULT_WORK, Mix
from loadtest.simulator.specification import PoolSpec
from serve_app.routing.router import WaitLimits
from serve_app.routing.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything but the scaler and the seed.

    Attributes:
        name: what reports call it.
        about: one sentence for people.
        pools: at least one.
        arrivals: when requests come.
        mix: what they ask for.
        default: the work that profiles and capacities refer to.
        policy: routing policy by its registered name.
        limits: longest predicted waits; a request that would wait longer is refused.
        hold_s: seconds that a request may wait while no pool is available; 0: refused at once.
        late: whether what the pools have no room for waits in the ingress, as with elastic pools,
            instead of at a replica.
        max_ongoing: requests that Serve lets one replica have; what is beyond waits in Serve.
            ``None``: no limit, as behind a load balancer.
        slo_s: seconds within which a picture should be there.
        duration_s: simulated seconds in which requests arrive.
        initial: ready replicas at the start, by pool; pools left out have their least.
        controller: makes what changes the routing at run time, if anything.
        learns: whether pools learn how far off predictions are and observe latencies, which takes
            longer; always done for ``failover``, which needs it.
        thresholds: images per minute and replica by pool, for ``ThresholdScaler``.
    """

    name: str
    about: str = ""
    pools: tuple[PoolSpec, ...]
    arrivals: Arrivals
    mix: Mix = field(default_factory=Mix)
    default: Work = DEFAULT_WORK
    policy: str = "weighted"
    limits: WaitLimits = field(default_factory=WaitLimits)
    hold_s: float = 0.0
    late: bool = False
    max_ongoing: int | None = None
    slo_s: float = 2.0
    duration_s: float = DAY_S
    initial: Mapping[str, int] = field(default_factory=dict)
    controller: Callable[[], Controller] | None = None
    learns: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
