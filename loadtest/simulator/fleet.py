"""One pool's nodes and replicas: launched, placed, started, drained, taken away, paid for."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from simpy import Environment
from simpy.events import Event, Timeout

from loadtest.simulator.replica import Phase, Replica
from loadtest.simulator.request import Request
from loadtest.simulator.specification import PoolSpec
from serve_app.autoscaling.views import PoolView
from serve_app.routing.observations import Observations
from serve_app.routing.snapshot import PoolSnapshot, PoolState
from serve_app.routing.work import Load, Work

_HOUR_S = 3600.0


class Service(Protocol):
    """What a pool tells the service it belongs to."""

    def answered(self, fleet: Fleet, request: Request, now: float) -> None:
        """``request`` is done."""
        ...

    def lost(self, fleet: Fleet, requests: list[Request], now: float) -> None:
        """``requests`` went down with their replicas."""
        ...

    def capacity_came(self, now: float) -> None:
        """A replica has become ready."""
        ...


class Node:
    """A machine of ``per_node`` places, which is there or still provisioned."""

    __slots__ = ("here", "number", "replicas")

    def __init__(self, number: int) -> None:
        self.number = number
        self.here = False
        self.replicas: list[Replica] = []


class Fleet:
    """Keeps as many replicas as are asked for, as far as there are nodes for them.

    Attributes:
        spec: what the pool is made of.
        snapshot: what the router sees; the same object throughout, kept up to date in place.
        target: replicas asked for.
        unlaunched: of these, how many have no node, not even one that is on its way.
        queued: row-steps that wait, in replicas or before them, for a place in a batch.
        routed, answers: requests sent here and answered here so far.
        changes: replicas that the target was raised or lowered by, in all.
        changed_at: simulated seconds at which it was.
        dollars: paid for nodes until ``paid_until_s``.
    """

    def __init__(
        self,
        env: Environment,
        service: Service,
        spec: PoolSpec,
        default: Work,
        slo_s: float,
        rng: random.Random,
        *,
        learns: bool = False,
        max_ongoing: int | None = None,
    ) -> None:
        self.spec = spec
        self._max_ongoing = max_ongoing
        self._unassigned: deque[Request] = deque()
        self._env = env
        self._service = service
        self._rng = rng
        self._random = rng.random
        self._step_s: dict[float, float] = {}
        profile = spec.profile or spec.speed.profile(default, slo_s)
        self.load = Load()
        self.snapshot = PoolSnapshot(
            name=spec.name,
            accelerator=spec.name,
            framework="emulated",
            weight=spec.weight,
            max_replicas=spec.max_replicas,
            state=PoolState(),
            price_per_hour=spec.price_per_hour,
            profile=profile,
            speed=spec.speed,
            load=self.load,
        )
        self._capacity = profile.images_per_minute / 60 * default.row_steps
        self._observations = Observations() if learns else None
        self._nodes: list[Node] = []
        self._launched = 0
        self._node_of: dict[Replica, Node] = {}
        self._ready: list[Replica] = []
        self._starting = 0
        self._draining = 0
        self.target = 0
        self.unlaunched = 0
        self.queued = 0.0
        self.routed = 0
        self.answers = 0
        self.changes = 0
        self.changed_at: list[float] = []
        self.dollars = 0.0
        self._paid_until_s = 0.0
        for window in spec.ice:
            self._at(window.from_s, self._ice(window.cap))
            self._at(window.to_s, self._thaw)
        for interruption in spec.interruptions:
            self._at(interruption.at_s, self._reclaim(interruption.fraction))

    # -- what the hot path uses

    def send(self, request: Request, predicted_s: float, now: float) -> None:
        """Give ``request`` to the less loaded of two random ready replicas, as Ray Serve does.

        With ``max_ongoing`` what no replica may have waits until one may, as in Serve's handles.
        """
        self.load.add(request.work)
        self.routed += 1
        request.sent_s = now
        request.predicted_s = predicted_s
        replica = self._less_loaded()
        if self._max_ongoing is not None and replica.ongoing >= self._max_ongoing:
            self._unassigned.append(request)
            self.queued += request.work.row_steps
            self._assign(now)
        else:
            replica.take(request, now)

    def _less_loaded(self) -> Replica:
        """Of two at random."""
        ready = self._ready
        count = len(ready)
        if count == 1:
            return ready[0]
        one = int(self._random() * count)
        other = int(self._random() * (count - 1))
        replica = ready[one]
        rival = ready[other + (other >= one)]
        return rival if rival.ongoing < replica.ongoing else replica

    def _assign(self, now: float) -> None:
        """Give what waits to replicas that may have more."""
        while self._unassigned and self._ready:
            replica = min(self._ready, key=lambda one: one.ongoing)
            if self._max_ongoing is not None and replica.ongoing >= self._max_ongoing:
                return
            request = self._unassigned.popleft()
            self.queued -= request.work.row_steps
            replica.take(request, now)

    def answered(self, request: Request, now: float) -> None:
        """See ``Home.answered``."""
        self.load.remove(request.work)
        self.answers += 1
        if self._unassigned:
            self._assign(now)
        if self._observations is not None:
            self._learn(self._observations, request, now)
        self._service.answered(self, request, now)

    def step_s(self, rows: float) -> float:
        """Seconds of a step; remembered, since only few batch sizes occur."""
        known = self._step_s.get(rows)
        if known is None:
            known = self._step_s[rows] = self.spec.speed.step_ms(rows) / 1000
        return known

    def _learn(self, observations: Observations, request: Request, now: float) -> None:
        correction = self.snapshot.correction
        observations.answered(now - request.sent_s, request.predicted_s / correction, now)
        self.snapshot.correction = observations.correction(now)
        self.snapshot.observed = observations.observed(now)

    # -- what the scaler sees and asks for

    @property
    def ready(self) -> int:
        """Replicas that take requests."""
        return len(self._ready)

    @property
    def room(self) -> float:
        """Rows that fit into the batches of those."""
        return len(self._ready) * self.spec.speed.max_rows

    @property
    def nodes(self) -> int:
        """Nodes that are paid for."""
        return len(self._nodes)

    @property
    def cost_per_hour(self) -> float:
        """US dollars an hour at present."""
        return len(self._nodes) * self.spec.per_node * self.spec.price_per_hour

    def view(self) -> PoolView:
        """The pool as the planner sees it."""
        spec = self.spec
        coming = sum(len(node.replicas) for node in self._nodes if not node.here)
        return PoolView(
            name=spec.name,
            ready=len(self._ready),
            target=self.target,
            unplaced=self.unlaunched + coming,
            capacity=self._capacity,
            price=spec.price_per_hour,
            min_replicas=spec.min_replicas,
            max_replicas=spec.max_replicas,
            per_node=spec.per_node,
            provisioning_s=spec.provisioning_s,
            start_s=spec.start_s,
        )

    def ask(self, target: int, now: float) -> None:
        """Set the target, within the bounds."""
        target = min(max(target, self.spec.min_replicas), self.spec.max_replicas)
        if target != self.target:
            self.changes += abs(target - self.target)
            self.changed_at.append(now)
            self.target = target
            self._reconcile(now)

    def warm(self, count: int) -> None:
        """Start with ``count`` ready replicas, which does not count as a change."""
        self.target = count
        for _ in range(count):
            node = self._free_node() or self._launch(0.0, provisioned=True)
            if node is None:
                self.unlaunched += 1
            else:
                replica = self._place(node)
                self._starting -= 1
                self._become_ready(replica)
        self._show()

    def settle(self, now: float) -> None:
        """Pay for the nodes until now."""
        self.dollars += self.cost_per_hour * (now - self._paid_until_s) / _HOUR_S
        self._paid_until_s = now

    # -- nodes

    def _launch(self, now: float, *, provisioned: bool = False) -> Node | None:
        if any(window.from_s <= now < window.to_s for window in self.spec.ice):
            return None
        self.settle(now)
        node = Node(self._launched)
        self._launched += 1
        self._nodes.append(node)
        node.here = provisioned
        if not provisioned:
            self._after(self.spec.provisioning_s, lambda: self._arrived(node))
        return node

    def _arrived(self, node: Node) -> None:
        if node not in self._nodes:
            return
        node.here = True
        for replica in node.replicas:
            self._start(replica)

    def _free_node(self) -> Node | None:
        for node in self._nodes:
            if len(node.replicas) < self.spec.per_node:
                return node
        return None

    def _end(self, node: Node, now: float) -> None:
        self.settle(now)
        self._nodes.remove(node)

    def _take_away(self, nodes: list[Node], now: float) -> None:
        """The nodes go without notice, their replicas and requests with them."""
        lost: list[Request] = []
        for node in nodes:
            self._end(node, now)
            for replica in node.replicas:
                self._leave(replica)
                lost.extend(replica.kill())
                del self._node_of[replica]
        for request in lost:
            self.load.remove(request.work)
        self._reconcile(now)
        if lost:
            self._service.lost(self, lost, now)

    def _ice(self, cap: int | None) -> Callable[[], None]:
        def begin() -> None:
            if cap is not None and len(self._nodes) > cap:
                self._take_away(self._nodes[cap:], self._env.now)

        return begin

    def _thaw(self) -> None:
        self._reconcile(self._env.now)

    def _reclaim(self, fraction: float) -> Callable[[], None]:
        def strike() -> None:
            here = [node for node in self._nodes if node.here]
            count = math.ceil(fraction * len(here) - 1e-9)
            if count:
                self._take_away(self._rng.sample(here, count), self._env.now)

        return strike

    # -- replicas

    def _reconcile(self, now: float) -> None:
        missing = self.target - (self.unlaunched + self._starting + len(self._ready))
        if missing < 0:
            self._shrink(-missing, now)
        else:
            self.unlaunched += missing
        while self.unlaunched:
            node = self._free_node() or self._launch(now)
            if node is None:
                break
            self.unlaunched -= 1
            replica = self._place(node)
            if node.here:
                self._start(replica)
        self._show()

    def _shrink(self, count: int, now: float) -> None:
        """Those without a node first, then those not ready, then those that drain soonest."""
        free = min(count, self.unlaunched)
        self.unlaunched -= free
        for _ in range(count - free):
            live = [one for one in self._node_of if one.phase is not Phase.DRAINING]
            victim = min(live, key=self._worth)
            self._leave(victim)
            if victim.ongoing:
                victim.phase = Phase.DRAINING
                self._draining += 1
            else:
                self._remove(victim, now)

    def _worth(self, replica: Replica) -> tuple[bool, int, int, int]:
        # Emptying nodes that hold few others is what saves money.
        node = self._node_of[replica]
        live = sum(other.phase is not Phase.DRAINING for other in node.replicas)
        return (replica.phase is Phase.READY, live, replica.ongoing, -node.number)

    def _place(self, node: Node) -> Replica:
        replica = Replica(self._env, self, self.step_s, self.spec.speed.max_rows)
        node.replicas.append(replica)
        self._node_of[replica] = node
        self._starting += 1
        return replica

    def _start(self, replica: Replica) -> None:
        replica.phase = Phase.STARTING
        self._after(self.spec.start_s, lambda: self._started(replica))

    def _started(self, replica: Replica) -> None:
        if replica.phase is not Phase.STARTING:
            return
        self._starting -= 1
        self._become_ready(replica)
        self._show()
        self._assign(self._env.now)
        self._service.capacity_came(self._env.now)

    def _become_ready(self, replica: Replica) -> None:
        replica.phase = Phase.READY
        replica.slot = len(self._ready)
        self._ready.append(replica)

    def _leave(self, replica: Replica) -> None:
        """Count ``replica`` out of its phase; it takes no more requests."""
        if replica.phase is Phase.READY:
            last = self._ready.pop()
            if last is not replica:
                self._ready[replica.slot] = last
                last.slot = replica.slot
        elif replica.phase is Phase.DRAINING:
            self._draining -= 1
        else:
            self._starting -= 1

    def drained(self, replica: Replica, now: float) -> None:
        """See ``Home.drained``."""
        self._draining -= 1
        self._remove(replica, now)
        self._reconcile(now)

    def _remove(self, replica: Replica, now: float) -> None:
        replica.phase = Phase.STOPPED
        node = self._node_of.pop(replica)
        node.replicas.remove(replica)
        if not node.replicas:
            self._end(node, now)

    def _show(self) -> None:
        self.snapshot.state = PoolState(
            ready=len(self._ready),
            draining=self._draining,
            starting=self._starting + self.unlaunched,
            status="HEALTHY" if self._ready else "UPDATING",
        )

    def _at(self, when_s: float, act: Callable[[], None]) -> None:
        self._after(when_s - self._env.now, act)

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        def run(_: Event) -> None:
            act()

        Timeout(self._env, delay_s).callbacks.append(run)
