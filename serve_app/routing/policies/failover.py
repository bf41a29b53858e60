"""The cheapest pool while it holds the objective and has room, else the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.routing.policies.base import Candidate, Policy, PolicyOptions
from serve_app.routing.snapshot import PoolSnapshot

# Each relapse doubles the time a pool must hold before it is used again, up to this many times.
_MOST_PATIENCE = 8
# A pool that has been trusted this many times ``return_after_s`` has its relapses forgiven.
_FORGIVEN_AFTER = 10


@dataclass(slots=True)
class _Trust:
    """What is thought of one pool, and since when it looks otherwise.

    ``since``: when ``trusted`` was last decided; ``other_since``: since when the pool has looked
    the other way, ``None`` while it looks as decided.
    """

    trusted: bool = True
    since: float = -math.inf
    other_since: float | None = None
    patience: int = 1


class FailoverPolicy(Policy, name="failover"):
    """All traffic to the cheapest pool that can be trusted; hysteresis both ways.

    A pool holds while its observed p95 and the predicted time of a default request, queue
    included, are within the objective. One that does not for ``leave_after_s`` loses trust, one
    that is not available at once. It is trusted again after holding for ``return_after_s``, for
    twice as long after each relapse. Without any trusted pool the one predicted to be done first
    is used.

    Pools are ordered by the price of a picture; those where it is unknown come last.
    """

    needs_prices = True

    def __init__(self, options: PolicyOptions) -> None:
        super().__init__(options)
        self._trust: dict[str, _Trust] = {}
        self._first: str | None = None

    def rank(self, candidates: Sequence[Candidate], now: float) -> list[str]:
        """See ``Policy.rank``."""
        here = {one.pool.name: one for one in candidates}
        for name, trust in self._trust.items():
            if name not in here:
                self._decide(trust, False, now)
        for name, one in here.items():
            known = name in self._trust
            trust = self._trust.setdefault(name, _Trust(since=now))
            if known:
                self._update(trust, self._holds(one), now)
        fitting = [one for one in candidates if one.fits]
        fitting.sort(key=lambda one: (not self._trust[one.pool.name].trusted, *self._rank_of(one)))
        names = [one.pool.name for one in fitting]
        self._first = names[0] if names else None
        return names

    def shares(self, pools: Sequence[PoolSnapshot]) -> dict[str, float] | None:
        """All to the pool in use."""
        return None if self._first is None else {self._first: 1.0}

    def _rank_of(self, one: Candidate) -> tuple[float, str]:
        if not self._trust[one.pool.name].trusted:
            return (one.total_s, one.pool.name)
        cost = one.pool.cost_per_1000
        return (math.inf if cost is None else cost, one.pool.name)

    def _holds(self, one: Candidate) -> bool:
        slo_s, observed = self.options.slo_s, one.pool.observed
        late = observed is not None and observed.p95_s > slo_s
        # Not this request's own time: an uncommonly large one says nothing of the pool.
        profile, correction = one.pool.profile, one.pool.correction
        own_s = one.total_s - one.wait_s if profile is None else profile.latency_s * correction
        return not late and one.wait_s + own_s <= slo_s

    def _update(self, trust: _Trust, holds: bool, now: float) -> None:
        options = self.options
        if trust.trusted and now - trust.since >= _FORGIVEN_AFTER * options.return_after_s:
            trust.patience = 1
        if holds == trust.trusted:
            trust.other_since = None
            return
        if trust.other_since is None:
            trust.other_since = now
        wait = options.return_after_s * trust.patience if holds else options.leave_after_s
        if now - trust.other_since >= wait:
            self._decide(trust, holds, now)

    def _decide(self, trust: _Trust, trusted: bool, now: float) -> None:
        trust.other_since = None
        if trust.trusted == trusted:
            return
        trust.trusted, trust.since = trusted, now
        if not trusted:
            trust.patience = min(2 * trust.patience, _MOST_PATIENCE)
