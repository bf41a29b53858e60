"""The pools as configured, joined with their live state and the weights in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from serve_app.routing.snapshot import PoolSnapshot, PoolState
from serve_app.settings import PoolSettings

_UNKNOWN = PoolState()


class PoolDirectory:
    """Answers "what pools are there and how are they" with one snapshot per declared pool.

    Args:
        pools: the declared pools.
        states: the newest known states by pool name; a missing pool counts as unavailable.
    """

    def __init__(
        self, pools: Mapping[str, PoolSettings], states: Callable[[], Mapping[str, PoolState]]
    ) -> None:
        self._pools = dict(pools)
        self._states = states
        self._overrides: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        """Every declared pool, in the order of the settings."""
        return list(self._pools)

    def override_weights(self, weights: Mapping[str, float]) -> None:
        """Replace all overrides; pools left out return to the weight of their settings."""
        self._overrides = dict(weights)

    def snapshots(self) -> list[PoolSnapshot]:
        """One snapshot per declared pool, in the order of the settings."""
        states = self._states()
        return [
            PoolSnapshot(
                name=name,
                accelerator=pool.accelerator,
                framework=pool.framework,
                weight=self._overrides.get(name, pool.weight),
                max_replicas=pool.max_replicas,
                state=states.get(name, _UNKNOWN),
            )
            for name, pool in self._pools.items()
        ]
