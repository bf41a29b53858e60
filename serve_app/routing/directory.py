"""The pools as configured, joined with their live state and with what this ingress knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serve_app.live import LiveSettings
from serve_app.pool_settings import PoolSettings
from serve_app.routing.breaker import Breaker, BreakerOptions
from serve_app.routing.observations import Observations
from serve_app.routing.snapshot import Observed, PoolSnapshot, PoolState, Sizes
from serve_app.routing.speed import Profile, Speed
from serve_app.routing.work import Load, Work
from serve_app.settings import INGRESS

_UNKNOWN = PoolState()


@dataclass(slots=True)
class PoolRecord:
    """What one ingress replica knows of one pool by itself.

    Attributes:
        load: work it sent there and that is not answered.
        observations: how earlier requests went.
        breaker: whether the pool is kept out of rotation.
        measured: step costs that a replica of the pool found by calibration.
        sizes: the only picture sizes that its replicas paint; ``None``: any.
        profile, speed: in force: configured, else derived from ``measured``.
        gone: whether it had no ready replica when last looked at.
    """

    load: Load = field(default_factory=Load)
    observations: Observations = field(default_factory=Observations)
    breaker: Breaker = field(default_factory=lambda: Breaker(BreakerOptions()))
    measured: Speed | None = None
    sizes: Sizes | None = None
    profile: Profile | None = None
    speed: Speed | None = None
    gone: bool = False


class PoolDirectory:
    """Answers "what pools are there and how are they" with one snapshot per declared pool.

    Args:
        pools: the declared pools.
        states: the newest known states by deployment name; a missing pool counts as unavailable.
        default: the work of the model's default request, to which profiles refer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pools: Mapping[str, PoolSettings],
        states: Callable[[], Mapping[str, PoolState]],
        default: Work,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pools = dict(pools)
        self._states = states
        self._default = default
        self._clock = clock
        self._live = LiveSettings()
        self._records = {name: PoolRecord() for name in pools}

    @property
    def names(self) -> list[str]:
        """Every declared pool, in the order of the settings."""
        return list(self._pools)

    @property
    def elastic(self) -> list[str]:
        """Pools whose replicas come on demand."""
        return [name for name, pool in self._pools.items() if pool.elastic is not None]

    def ready(self, name: str) -> int:
        """Replicas of a pool that can be sent a request now."""
        return self._states().get(name, _UNKNOWN).ready

    def has(self, pin: str | None, lora: str | None = None) -> bool:
        """Whether that pool, or any with ``None``, can be sent a request now.

        Args:
            pin: the only pool to consider.
            lora: the adapter that it must have; ``None``: it must be able to paint without.
        """
        return any(
            self.ready(name) > 0 and self._pools[name].has(lora)
            for name in (self._pools if pin is None else (pin,))
        )

    @property
    def peers(self) -> int:
        """Ingress replicas that send requests, this one included."""
        return max(1, self._states().get(INGRESS, _UNKNOWN).ready)

    def record(self, name: str) -> PoolRecord:
        """What is known of a pool by experience."""
        return self._records[name]

    def configure(self, live: LiveSettings) -> None:
        """Take new live settings into force."""
        self._live = live
        options = live.recovery.breaker()
        for name, record in self._records.items():
            record.breaker.options = options
            self._derive(name)

    def measured(self, name: str, speed: Speed, sizes: Sizes | None = None) -> None:
        """A replica of the pool has told its step costs, and the only sizes that it paints."""
        self._records[name].measured = speed
        self._records[name].sizes = sizes
        self._derive(name)

    def snapshots(self) -> list[PoolSnapshot]:
        """One snapshot per declared pool, in the order of the settings."""
        now, pools = self._clock(), self.books()
        for pool in pools:
            record = self._records[pool.name]
            if record.gone and pool.ready:
                record.breaker.reset()  # what failed is not there any more
            record.gone = pool.ready == 0
            pool.observed = record.observations.observed(now)
            pool.speed = pool.speed or _guess(pool.observed, self._default)
            pool.correction = record.observations.correction(now)
            pool.held = record.breaker.holds(now)
            pool.probe = record.breaker.wants_probe(now)
        return pools

    def books(self) -> list[PoolSnapshot]:
        """As ``snapshots``, without what changes when looked at: for other threads."""
        states, live, peers = self._states(), self._live, self.peers
        return [
            PoolSnapshot(
                name=name,
                accelerator=pool.label,
                framework=pool.framework,
                weight=live.weights.get(name, pool.weight),
                max_replicas=pool.max_replicas,
                state=states.get(name, _UNKNOWN),
                price_per_hour=live.prices.get(name),
                profile=self._records[name].profile,
                speed=self._records[name].speed,
                # The others are taken to do as this one does: proxies spread requests evenly
                # over ingress replicas. So they need not talk, nor rush to one pool together.
                load=self._records[name].load.times(peers),
                sizes=self._records[name].sizes,
                lacks=pool.lacks,
                loras=tuple(pool.loras),
                lora_fused=pool.fuse_lora,
            )
            for name, pool in self._pools.items()
        ]

    def _derive(self, name: str) -> None:
        record, configured = self._records[name], self._live.profiles.get(name)
        if configured is not None:
            record.profile = configured.profile()
            record.speed = record.measured or Speed.of_profile(record.profile, self._default)
        elif record.measured is not None:
            record.profile = record.measured.profile(self._default, self._live.slo_s)
            record.speed = record.measured
        else:
            record.profile = record.speed = None


def _guess(observed: Observed | None, default: Work) -> Speed | None:
    """The speed of a pool that has not described itself, from what it did: one after the other."""
    if observed is None:
        return None
    return Speed({1: observed.p50_s * 1000 / default.steps}, max(1, round(default.rows)))
