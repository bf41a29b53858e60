"""Fixed weights, spread as evenly as a sequence of whole requests can be."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.routing.snapshot import PoolSnapshot

_ROUNDING = 1e-9


class WeightedPolicy:
    """Smooth weighted round robin, renormalised over the pools that are available.

    Each pool is owed its share of every request; a request goes to the pool that could be made
    to wait the least before its debt leaves the allowed band (Tijdeman's quota rule). So after
    every request each pool's count is within 1 of its exact share, and with whole weights that
    sum to W every window of W requests holds exactly the weights. Plain smooth round robin
    ("largest debt first") has no such bound for many unlike pools.

    Pools of weight 0 come into play only when no pool of positive weight is available; they
    then share equally. The counts start afresh whenever weights or availability change.

    Not thread-safe: for one event loop.
    """

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}
        self._owed: dict[str, float] = {}

    def rank(self, pools: Sequence[PoolSnapshot]) -> list[str]:
        """Names of all available pools, best first, and count the first as served.

        Pools are never ranked while they have no ready replica; ``[]`` when there is none.
        """
        available = [pool for pool in pools if pool.available]
        if not available:
            return []
        shares = normalised_weights(available)
        if shares != self._shares:
            self._shares = shares
            self._owed = dict.fromkeys(shares, 0.0)
        owed = self._owed
        for name, share in shares.items():
            owed[name] += share
        first = self._pick()
        owed[first] -= 1
        rest = sorted((name for name in shares if name != first), key=lambda name: -owed[name])
        spare = [pool.name for pool in available if pool.name not in shares]
        return [first, *rest, *spare]

    def _pick(self) -> str:
        """The eligible pool whose debt reaches the band's edge first."""
        slack = 1 / (2 * len(self._shares) - 2) if len(self._shares) > 1 else 0.0
        eligible = [name for name, debt in self._owed.items() if debt >= slack - _ROUNDING]
        return min(
            eligible or self._owed,
            key=lambda name: (1 - slack - self._owed[name]) / self._shares[name],
        )


def normalised_weights(pools: Sequence[PoolSnapshot]) -> dict[str, float]:
    """Share of the traffic by pool name over the available pools of ``pools``; sums to 1.

    Pools that get nothing are left out; ``{}`` when no pool is available.
    """
    available = [pool for pool in pools if pool.available]
    weights = {pool.name: pool.weight for pool in available if pool.weight > 0}
    if not weights:
        weights = {pool.name: 1.0 for pool in available}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
