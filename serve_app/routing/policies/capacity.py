"""Equal shares: every available pool is used, none is favoured."""

from __future__ import annotations

from serve_app.routing.policies.shared_out import SharedOut
from serve_app.routing.snapshot import PoolSnapshot


class CapacityPolicy(SharedOut, name="capacity"):
    """Traffic goes to wherever capacity could be had, in equal parts."""

    def weight(self, pool: PoolSnapshot) -> float:
        """The same for all."""
        return 1.0
