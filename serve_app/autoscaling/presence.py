"""Replica counts by presence: a pool gets replicas where its hardware is, and none elsewhere."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

_POLL_S = 3.0
Nodes = list[dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNeed:
    """What one pool asks of the cluster.

    Attributes:
        needs: Ray resource name -> amount for one replica.
        special: whether ``needs`` holds more than CPU cores, so that presence decides.
        framework: ``"cpu"``, ``"cuda"`` or ``"neuron"``.
        min_replicas, max_replicas: bounds on the count while it can be hosted at all.
    """

    needs: Mapping[str, float]
    special: bool
    framework: str
    min_replicas: int
    max_replicas: int


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
    of a core. A pool whose framework cannot run gets 0.
    """
    runnable = {name: pool for name, pool in pools.items() if pool.framework in seen.frameworks}
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


def _place(needs: Mapping[str, float], rooms: Nodes) -> bool:
    """Take ``needs`` from the first node with room; False when none has."""
    for room in rooms:
        if all(room.get(name, 0.0) + 1e-9 >= amount for name, amount in needs.items()):
            for name, amount in needs.items():
                room[name] -= amount
            return True
    return False


class PresencePolicy:
    """The application-level autoscaling policy around ``decide``.

    Named in ``serve_config.yaml`` with the pools of ``args`` as ``policy_kwargs``. It runs in
    Serve's control loop ten times a second, where an exception or a wait would freeze every
    application: so it only reads what a daemon thread saw, and when anything goes wrong it logs
    once and leaves every count as it is.

    Args:
        pools: the ``pools`` of ``args``.
        look: sees the cluster; may block and raise. For tests.
        poll_s: seconds between two looks.
    """

    def __init__(
        self,
        pools: Mapping[str, Any] | None = None,
        look: Callable[[], Seen] | None = None,
        poll_s: float = _POLL_S,
    ) -> None:
        self._raw_pools = pools or {}
        self._look = look or look_at_cluster
        self._poll_s = poll_s
        self._targets: dict[str, int] | None = None
        self._complained: set[str] = set()
        self._thread: threading.Thread | None = None

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, Any]]:
        """Target counts by deployment id; a deployment left out keeps its count. Never raises."""
        try:
            self._start()
            targets = self._targets
            if targets is None:
                return {}, {}
            return changes(contexts, targets), {}
        except Exception as error:
            self._complain("cannot decide replica counts", error)
            return {}, {}

    def poll(self) -> None:
        """Look once and decide; never raises. On failure the last decision stays."""
        try:
            self._targets = decide(pool_needs(self._raw_pools), self._look())
        except Exception as error:
            self._complain("cannot see what hardware is there", error)

    def _start(self) -> None:
        # Not in the constructor: the policy may be built in one process and run in another.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self.poll()
            pause.wait(self._poll_s)

    def _complain(self, what: str, error: Exception) -> None:
        text = f"{what}: {type(error).__name__}: {error}"
        if text not in self._complained and len(self._complained) < 100:
            self._complained.add(text)
            log.warning("presence policy: %s; every replica count stays as it is", text)


def changes(contexts: Mapping[Any, Any], targets: Mapping[str, int]) -> dict[Any, int]:
    """``targets`` by deployment id, without those that should not be said.

    A pool that is and stays at 0 is left out: Serve starts a replica for any deployment at 0
    that is named here and has a request waiting, whatever number is given.
    """
    found = {}
    for deployment, context in contexts.items():
        target = targets.get(deployment.name)
        if target is None:
            continue
        at_zero = context.current_num_replicas == 0 and context.target_num_replicas == 0
        if target > 0 or not at_zero:
            found[deployment] = target
    return found


def pool_needs(raw: Mapping[str, Any]) -> dict[str, PoolNeed]:
    """Read the ``pools`` of ``args``.

    Raises:
        SettingsError: they are not valid pool settings.
    """
    # Imported late, here and below: Serve carries this class into its controller by value, and
    # a missing module must end in a log line there, not in a controller that cannot start.
    from serve_app.settings import PoolSettings, SettingsError, parse

    if not raw:
        raise SettingsError("policy_kwargs.pools: missing; give it the pools of args")
    pools = {name: parse(PoolSettings, pool, what=f"pools.{name}") for name, pool in raw.items()}
    return {
        name: PoolNeed(
            needs=pool.resources.needs(),
            special=pool.resources.special,
            framework=pool.framework,
            min_replicas=pool.min_replicas,
            max_replicas=pool.max_replicas,
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
