"""From what the cluster, the ingress and the replicas say to replica counts, and back in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, Protocol

from serve_app.autoscaling.clock import steady_unix
from serve_app.autoscaling.planner import Plan, PlannerOptions, PoolPlan, plan
from serve_app.autoscaling.presence import PoolNeed, Seen, decide, unplaced
from serve_app.autoscaling.shortage import Supply
from serve_app.autoscaling.views import Demand, PoolView

# Of a pool of which nothing is known yet: of some price, and as fast as the slowest known.
_SOME_PRICE = 1.0
# Of decisions of an earlier controller, in seconds.
_STALE_S = 600.0


class Replicas(NamedTuple):
    """One pool as Serve has it: ready, wanted, and the most and least that its bounds allow."""

    ready: int
    wanted: int
    most: int
    least: int = 0


_NONE = Replicas(0, 0, 0)


class PolicyBoard(Protocol):
    """The policy's half of the board; ``Board`` is one."""

    def reports(self) -> list[dict[str, Any]]:
        """See ``Board.reports``."""

    def decide(self, decision: Mapping[str, Any]) -> None:
        """See ``Board.decide``."""

    def decision(self) -> dict[str, Any] | None:
        """See ``Board.decision``."""


class Decider:
    """Decides for all pools, and remembers what the next decision needs.

    Args:
        needs: what each pool asks of the cluster.
        options: fields of ``PlannerOptions`` but ``slo_s``.
        look: sees the cluster; may block and raise.
        board: where the ingress' word is and the decision goes.
        clock: unix seconds; windows and delays are measured by it, so it should not be set.

    Raises:
        TypeError: an option is unknown.
    """

    def __init__(
        self,
        needs: Mapping[str, PoolNeed],
        options: Mapping[str, float],
        look: Callable[[], Seen],
        board: PolicyBoard,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._needs = dict(needs)
        self._options = PlannerOptions(**options)
        self._look = look
        self._board = board
        self._clock = clock or steady_unix()
        self._before: Plan | None = None
        # What was told last of pools that are not elastic.
        self._steady: dict[str, dict[str, Any]] | None = None

    def decide(
        self,
        replicas: Mapping[str, tuple[int, ...]],
        stats: Mapping[str, Mapping[str, float]],
        *,
        faults: int = 0,
    ) -> tuple[dict[str, int], dict[str, Any]]:
        """Targets, and per pool what is told of them.

        Args:
            replicas: by pool: ready, wanted, and the most and least that Serve's own bounds allow.
            stats: means of what the replicas recorded, by pool; passed on.
            faults: how often deciding has failed so far; passed on.

        Raises:
            Exception: whatever looking at the cluster raises.
        """
        seen, now = self._look(), self._clock()
        serve = {name: Replicas(*numbers) for name, numbers in replicas.items()}
        elastic = {name: need for name, need in self._needs.items() if need.elastic is not None}
        steady = {name: need for name, need in self._needs.items() if need.elastic is None}
        targets = decide(steady, seen)
        told = self._seen(targets, now)
        decision: dict[str, Any] = {"at": now, "faults": faults, "pools": told}
        if elastic and elastic.keys() <= serve.keys():
            if self._before is None:
                self._before = restored(self._board.decision(), elastic, serve, now)
            reports = self._board.reports()
            if reports:
                self._plan(now, seen, targets, serve, reports, decision)
            self._tell(self._before, targets, decision)
        for name, numbers in stats.items():
            if name in told and numbers:
                told[name]["replicas"] = dict(numbers)
        self._board.decide(decision)
        return targets, told

    def _seen(self, targets: Mapping[str, int], now: float) -> dict[str, Any]:
        """What is told of pools that have replicas where their hardware is."""
        if self._steady is None:
            earlier = self._board.decision() or {"pools": {}}
            self._steady = {n: dict(one) for n, one in earlier["pools"].items() if "reason" in one}
        for name, count in targets.items():
            last = self._steady.setdefault(name, {"target": count})
            if last["target"] != count:
                self._steady[name] = {
                    "target": count,
                    "reason": f"{last['target']} to {count}: hardware seen",
                    "changed_at": now,
                }
        return {name: dict(self._steady[name]) for name in targets}

    def _plan(
        self,
        now: float,
        seen: Seen,
        targets: dict[str, int],
        replicas: Mapping[str, Replicas],
        reports: Sequence[Mapping[str, Any]],
        decision: dict[str, Any],
    ) -> None:
        """Add the elastic pools' targets and what is told of them."""
        before = self._before or Plan()
        # Our own targets, not Serve's, which follow a little later.
        wanted = {name: replicas.get(name, _NONE).wanted for name in self._needs}
        wanted |= before.targets | targets
        missing = unplaced(
            self._needs, wanted, seen, {name: counts.ready for name, counts in replicas.items()}
        )
        facts = known(reports, self._needs)
        pinned = {name for report in reports for name in report["pinned"]}
        views = [
            _view(
                name,
                need,
                replicas.get(name, _NONE),
                wanted[name],
                missing[name],
                facts[name],
                pinned=name in pinned,
            )
            for name, need in self._needs.items()
            if need.runs(seen)
        ]
        options = replace(self._options, slo_s=reports[0]["slo_s"])
        made = plan(now, views, demand_of(reports), options, before)
        self._before = made
        decision["required_row_steps_per_s"] = made.required

    def _tell(self, plan: Plan, targets: dict[str, int], decision: dict[str, Any]) -> None:
        """Say what ``plan`` has for elastic pools, also while no ingress says anything."""
        for name, pool in plan.pools.items():
            if self._needs[name].elastic is not None:
                targets[name] = pool.target
                decision["pools"][name] = {
                    "target": pool.target,
                    "reason": pool.reason,
                    "changed_at": pool.changed_at if pool.changed_at > 0 else None,
                    "supply": asdict(pool.supply),
                }


def _view(
    name: str,
    need: PoolNeed,
    replicas: Replicas,
    target: int,
    missing: int,
    facts: tuple[float, float],
    *,
    pinned: bool,
) -> PoolView:
    capacity, price = facts
    elastic = need.elastic
    if elastic is None:  # its replicas are there anyway, and cost nothing more
        return PoolView(
            name=name,
            ready=replicas.ready,
            target=target,
            capacity=capacity,
            price=0.0,
            min_replicas=target,
            max_replicas=target,
            provisioning_s=0.0,
        )
    # A request pinned to a pool at zero waits for its first replica, whatever that costs.
    pin = elastic.replicas_per_node if pinned else 0
    least = max(need.min_replicas, replicas.least, pin)
    return PoolView(
        name=name,
        ready=replicas.ready,
        target=target,
        unplaced=missing,
        capacity=capacity,
        price=price,
        min_replicas=min(least, replicas.most),
        max_replicas=min(need.max_replicas, replicas.most),
        per_node=elastic.replicas_per_node,
        provisioning_s=elastic.provisioning_s,
        start_s=elastic.start_s,
    )


def demand_of(reports: Sequence[Mapping[str, Any]]) -> Demand:
    """What all ingress replicas see together."""
    latencies = [report["p95_s"] for report in reports if report["p95_s"] is not None]
    return Demand(
        row_steps_per_s=sum(report["row_steps_per_s"] for report in reports),
        pictures_per_s=sum(report["pictures_per_s"] for report in reports),
        backlog=sum(report["backlog"] for report in reports),
        p95_s=max(latencies, default=None),
    )


def known(
    reports: Sequence[Mapping[str, Any]], needs: Mapping[str, PoolNeed]
) -> dict[str, tuple[float, float]]:
    """Capacity and price of one replica, by pool.

    What no report knows is assumed: a price of 1, and a capacity as small as the smallest known,
    or one default picture a second. A configured profile spares the guess.
    """
    capacities: dict[str, float] = {}
    prices: dict[str, float] = {}
    for report in reports:
        for name, facts in report["pools"].items():
            if facts["capacity"] is not None:
                capacities[name] = facts["capacity"]
            if facts["price"] is not None:
                prices[name] = facts["price"]
    some = min(
        (capacity for capacity in capacities.values() if capacity > 0),
        default=reports[0]["default_row_steps"],
    )
    return {name: (capacities.get(name, some), prices.get(name, _SOME_PRICE)) for name in needs}


def restored(
    decision: Mapping[str, Any] | None,
    pools: Mapping[str, PoolNeed],
    replicas: Mapping[str, Sequence[int]],
    now: float,
) -> Plan:
    """What an earlier controller knew of supply; targets are Serve's, the rest is soon seen again.

    A decision that is old, or of a version with other words, is of no use.
    """
    if decision is None or now - decision["at"] > _STALE_S:
        return Plan()
    found = {}
    for name in pools:
        told = decision["pools"].get(name, {})
        try:
            supply = Supply(**told["supply"])
        except (KeyError, TypeError):
            continue
        found[name] = PoolPlan(
            target=replicas[name][1],
            reason=told.get("reason", "as before"),
            changed_at=told.get("changed_at") or float("-inf"),
            supply=supply,
        )
    return Plan(pools=found)
