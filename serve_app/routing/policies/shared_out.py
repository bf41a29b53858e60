"""Shares of the traffic, spread as evenly as a sequence of whole requests can be."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence

from serve_app.routing.policies.base import Candidate, Policy, PolicyOptions
from serve_app.routing.snapshot import PoolSnapshot

_ROUNDING = 1e-9


class SharedOut(Policy):
    """Smooth weighted round robin over the available pools, with weights of a subclass' choice.

    Pools of weight 0 come into play only when no pool of positive weight fits; they then share
    equally.
    """

    def __init__(self, options: PolicyOptions) -> None:
        super().__init__(options)
        self._robin = SmoothRoundRobin(options.phase)
        self._spares = SmoothRoundRobin(options.phase)

    @abstractmethod
    def weight(self, pool: PoolSnapshot) -> float:
        """The weight of an available pool, not normalised."""

    def rank(self, candidates: Sequence[Candidate], now: float) -> list[str]:
        """See ``Policy.rank``."""
        weights = {one.pool.name: self.weight(one.pool) for one in candidates}
        fitting = [one.pool.name for one in candidates if one.fits]
        wanted = {name: weight for name, weight in weights.items() if weight > 0}
        order = self._robin.order(wanted, fitting)
        spare = {name: 1.0 for name, weight in weights.items() if weight <= 0}
        if order:  # a spare pool is served only when it comes first
            return [*order, *(name for name in fitting if name in spare)]
        return self._spares.order(spare, fitting)

    def shares(self, pools: Sequence[PoolSnapshot]) -> dict[str, float]:
        """See ``Policy.shares``."""
        weights = {pool.name: self.weight(pool) for pool in pools}
        if not any(weight > 0 for weight in weights.values()):
            weights = dict.fromkeys(weights, 1.0)
        return normalised(weights)


class SmoothRoundRobin:
    """Each name is owed its share of every request; whoever could be kept waiting least is next.

    Tijdeman's quota rule (The chairman assignment problem, Discrete Mathematics 32, 1980): serve
    the name whose debt would leave the allowed band first. So after every request each count is
    within 1 of its exact share, and with whole weights that sum to W every window of W requests
    holds exactly the weights. Plain smooth round robin ("largest debt first") has no such bound
    for many unlike weights. The counts start afresh whenever the weights change.

    Not thread-safe: for one event loop.

    Args:
        phase: requests to skip at every start.
    """

    def __init__(self, phase: int = 0) -> None:
        self._phase = phase
        self._weights: dict[str, float] = {}
        self._owed: dict[str, float] = {}

    def order(self, weights: Mapping[str, float], fitting: Collection[str]) -> list[str]:
        """The fitting names of ``weights``, best first; the first counts as served.

        A name that does not fit now neither gains nor loses: it is not owed what it could not
        have taken.

        Args:
            weights: positive weights of all names in rotation.
            fitting: those that can be served now.
        """
        if weights != self._weights:
            self._weights = dict(weights)
            self._owed = dict.fromkeys(weights, 0.0)
            for _ in range(self._phase if weights else 0):
                self._serve(weights)
        able = {name: weight for name, weight in weights.items() if name in fitting}
        return self._serve(able) if able else []

    def _serve(self, weights: Mapping[str, float]) -> list[str]:
        owed = self._owed
        shares = normalised(weights)
        for name, share in shares.items():
            owed[name] += share
        slack = 1 / (2 * len(shares) - 2) if len(shares) > 1 else 0.0
        eligible = [name for name in shares if owed[name] >= slack - _ROUNDING] or list(shares)
        # Rounded: names that are equal must not be told apart by the last bits of a sum.
        first = min(eligible, key=lambda name: round((1 - slack - owed[name]) / shares[name], 9))
        owed[first] -= 1
        rest = sorted((name for name in shares if name != first), key=lambda name: -owed[name])
        return [first, *rest]


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """The positive ones of ``weights``, scaled to sum to 1; ``{}`` when there is none."""
    total = sum(weight for weight in weights.values() if weight > 0)
    return {name: weight / total for name, weight in weights.items() if weight > 0}
