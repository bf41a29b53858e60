"""The pool that would be done first."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.routing.policies.base import Candidate, Policy


class LatencyPolicy(Policy, name="latency"):
    """Least predicted completion time; among equals the one with less to do per replica.

    Every ingress replica counts its own requests once for each of its peers (``PoolSnapshot.load``)
    so that several of them do not all rush to the pool that looks idle.
    """

    def rank(self, candidates: Sequence[Candidate], now: float) -> list[str]:
        """See ``Policy.rank``."""
        fitting = [one for one in candidates if one.fits]
        fitting.sort(key=lambda one: (one.total_s, one.pool.load.requests / one.pool.ready))
        return [one.pool.name for one in fitting]
