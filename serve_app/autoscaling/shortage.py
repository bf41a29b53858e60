"""When a pool's hardware cannot be had: given up after its time, probed again ever more rarely."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from serve_app.autoscaling.views import PoolView

FIRST_PROBE_S = 60.0
LONGEST_PROBE_S = 960.0
# So many times its usual start, and some more, a replica may load before it counts as failing.
_PATIENCE, _PATIENCE_S = 3.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What is known of the supply of one pool's hardware.

    Only replicas without a node count against it. One that has a node and loads its model is waited
    for; when none has got ready for long, no more are added and only what is ready counts.

    Attributes:
        state: ``"open"``: asked for as needed; ``"short"``: taken to be out of stock and not asked
            for; ``"probing"``: one node is asked for to find out.
        placed: replicas that had a node at the last look.
        target: replicas asked for at the last look.
        since: since when replicas have waited for a node without any getting one.
        probe_at: ``"short"``: when hardware may be asked for again.
        probes: probes in a row that found nothing.
        ready: replicas that served at the last look.
        loading_since: since when replicas with a node have not got ready, none of them.
        failing: whether that has been for too long.
    """

    state: Literal["open", "short", "probing"] = "open"
    placed: int = 0
    target: int = 0
    since: float | None = None
    probe_at: float = 0.0
    probes: int = 0
    ready: int = 0
    loading_since: float | None = None
    failing: bool = False

    def seen(self, pool: PoolView, now: float, *, wanted: bool) -> Supply:
        """The same after another look.

        Args:
            pool: what is seen.
            now: seconds.
            wanted: whether more of the pool would be used if it could be had.
        """
        return self._placed(pool, now, wanted=wanted)._loaded(pool, now, self)

    def _loaded(self, pool: PoolView, now: float, before: Supply) -> Supply:
        """With what is known of replicas that load."""
        if pool.ready >= self.placed or pool.ready > before.ready:
            return replace(self, ready=pool.ready, loading_since=None, failing=False)
        since = now if before.loading_since is None else before.loading_since
        failing = now - since > _PATIENCE * pool.start_s + _PATIENCE_S
        return replace(self, ready=pool.ready, loading_since=since, failing=failing)

    def _placed(self, pool: PoolView, now: float, *, wanted: bool) -> Supply:
        """With what is known of nodes."""
        placed = pool.target - pool.unplaced
        known = replace(self, placed=placed, target=pool.target)
        if self.state == "short":
            if now < self.probe_at or not wanted:
                return replace(known, since=None)
            return replace(known, state="probing", since=now)
        if placed > self.placed or (self.state == "open" and pool.unplaced == 0):
            # Some came; while others are still missing their time starts anew.
            return Supply(placed=placed, target=pool.target, since=now if pool.unplaced else None)
        if placed < self.placed and pool.target >= self.target:
            # Nodes were taken away: nobody knows whether others come, so ask for one at once and
            # count on none.
            return replace(known, state="probing", since=now)
        since = now if self.since is None else self.since
        if now - since < pool.provisioning_s:
            return replace(known, since=since)
        wait_s = min(FIRST_PROBE_S * 2**self.probes, LONGEST_PROBE_S)
        return replace(
            known, state="short", since=None, probe_at=now + wait_s, probes=self.probes + 1
        )

    def least(self, pool: PoolView) -> int:
        """Replicas that must be asked for: a probe asks whether or not it is needed just now."""
        if self.state == "probing":
            return self.most(pool)
        return min(pool.min_replicas, self.most(pool))

    def most(self, pool: PoolView) -> int:
        """Replicas that may be asked for."""
        if self.failing:
            return min(pool.max_replicas, max(self.placed, pool.min_replicas))
        if self.state == "open":
            return pool.max_replicas
        extra = pool.per_node if self.state == "probing" else 0
        return min(pool.max_replicas, self.placed + extra)

    def counted(self, pool: PoolView) -> int:
        """Replicas that serve or can be expected to."""
        if self.failing:
            return min(pool.ready, pool.target)
        return pool.target if self.state == "open" else min(self.placed, pool.target)
