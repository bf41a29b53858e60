"""What the cluster's nodes can hold: replica counts by presence, and replicas without a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_app.pool_settings import ElasticSettings

Nodes = list[dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNeed:
    """What one pool asks of the cluster.

    Attributes:
        needs: Ray resource name -> amount for one replica.
        special: whether ``needs`` holds more than CPU cores, so that presence decides.
        framework: which backend its replicas run.
        complete: the settings name all that a replica needs to start.
        min_replicas, max_replicas: bounds on the count while it can be hosted at all.
        elastic: how long nodes take to come on demand; ``None``: none come.
    """

    needs: Mapping[str, float]
    special: bool
    framework: str
    min_replicas: int
    max_replicas: int
    elastic: ElasticSettings | None = None
    complete: bool = True

    def runs(self, seen: Seen) -> bool:
        """Whether a replica could start where its resources are."""
        return self.complete and self.framework in seen.frameworks


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last look at the cluster found.

    Attributes:
        nodes: the total resources of each living node, by Ray resource name.
        frameworks: frameworks this build can run.
    """

    nodes: Nodes = field(default_factory=list)
    frameworks: frozenset[str] = frozenset()


def decide(pools: Mapping[str, PoolNeed], seen: Seen) -> dict[str, int]:
    """The replica count for each pool.

    A pool without special needs keeps its minimum, even where that does not fit. The others take
    turns, in the order given, placing one replica after the other on the first node that has
    room, up to their maximum; so pools that need the same hardware share it. Each gets its first
    replica before the plain pools' minimum takes up room, as accelerators must not idle for want
    of a core. A pool that cannot run gets 0.
    """
    runnable = {name: pool for name, pool in pools.items() if pool.runs(seen)}
    targets = dict.fromkeys(pools, 0)
    rooms = [dict(node) for node in seen.nodes]
    growing = [name for name, pool in runnable.items() if pool.special]

    def take_turns() -> None:
        for name in list(growing):
            full = targets[name] >= runnable[name].max_replicas
            if full or not _place(runnable[name].needs, rooms):
                growing.remove(name)
            else:
                targets[name] += 1

    take_turns()
    for name, pool in runnable.items():
        if not pool.special:
            targets[name] = pool.min_replicas
            for _ in range(pool.min_replicas):
                _place(pool.needs, rooms)
    while growing:
        take_turns()
    return targets


def unplaced(
    pools: Mapping[str, PoolNeed],
    targets: Mapping[str, int],
    seen: Seen,
    ready: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Of each pool's ``targets``, how many replicas none of the nodes has room for.

    Those that are ``ready`` have their place. For the others the pools take turns, those with
    special needs first, so that none is blamed for another's want.
    """
    rooms = [dict(node) for node in seen.nodes]
    placed = dict.fromkeys(pools, 0)
    serving = {name: min(count, targets.get(name, 0)) for name, count in (ready or {}).items()}
    for special, most in ((True, serving), (False, serving), (True, targets), (False, targets)):
        growing = [name for name, pool in pools.items() if pool.special is special]
        while growing:
            for name in list(growing):
                done = placed[name] >= most.get(name, 0)
                if done or not _place(pools[name].needs, rooms):
                    growing.remove(name)
                else:
                    placed[name] += 1
    return {name: max(0, targets.get(name, 0) - count) for name, count in placed.items()}


def _place(needs: Mapping[str, float], rooms: Nodes) -> bool:
    """Take ``needs`` from the first node with room; False when none has."""
    for room in rooms:
        if all(room.get(name, 0.0) + 1e-9 >= amount for name, amount in needs.items()):
            for name, amount in needs.items():
                room[name] -= amount
            return True
    return False


def pool_needs(raw: Mapping[str, Any]) -> dict[str, PoolNeed]:
    """Read the ``pools`` of ``args``.

    Raises:
        SettingsError: they are not valid pool settings.
    """
    from serve_app.pool_settings import PoolSettings
    from serve_app.validation import SettingsError, parse

    if not raw:
        raise SettingsError("policy_kwargs.pools: missing; give it the pools of args")
    pools = {name: parse(PoolSettings, pool, what=f"pools.{name}") for name, pool in raw.items()}
    return {
        name: PoolNeed(
            needs=pool.resources.needs(),
            special=pool.resources.special,
            framework=pool.framework,
            complete=not pool.lacks,
            min_replicas=pool.min_replicas,
            max_replicas=pool.max_replicas,
            elastic=pool.elastic,
        )
        for name, pool in pools.items()
    }


def look_at_cluster() -> Seen:
    """The living nodes and the frameworks of this build; asks Ray's GCS, so it may block."""
    import ray

    from deployments.backends import available_frameworks

    return Seen(living_nodes(ray.nodes()), frozenset(available_frameworks()))


def living_nodes(nodes: Iterable[Mapping[str, Any]]) -> Nodes:
    """Total resources of each living node of ``ray.nodes()``."""
    return [dict(node.get("Resources", {})) for node in nodes if node.get("Alive")]
