"""Replica counts for all pools: least cost within the latency objective. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from serve_app.autoscaling.cheapest import capacity_of, cheapest, cost_of
from serve_app.autoscaling.forecast import TREND_S, Sample, required
from serve_app.autoscaling.shortage import Supply
from serve_app.autoscaling.views import Demand, PoolView

_BOOST_UP, _BOOST_DOWN, _MOST_BOOST = 1.1, 0.95, 2.0
_BOOST_PERIOD_S = 30.0
# A level that was too low is not tried again for so long, twice as long each time it was again:
# else the fleet would shrink into the same trouble after every stabilisation window.
_BOOST_FLOOR_S, _MOST_FLOOR_S = 3600.0, 86_400.0
_BOOST_DOWN_PERIOD_S = 600.0
# Latencies are of the last minute: those of before help came must have left it.
_SETTLE_S = 90.0
_TINY = 1e-9
# Until the last replica may go, so much of the smallest is taken to be needed.
_LEAST_NEED = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerOptions:
    """How careful the planner is.

    Attributes:
        slo_s: latency objective in seconds.
        headroom: capacity kept free, as a share of the demand.
        safety: standard deviations of the work that arrives within the objective, kept free too.
        shrink_after_s: stabilisation window: fewer replicas, or replicas of another pool, only when
            the highest requirement of this long allows it; each pool at most once in this time.
        shrink_margin: by how much more than required must remain, so that noise around a step
            changes nothing.
        least_saving: share of the cost that moving to other pools must save.
        zero_after_s: seconds without any demand before the last replica goes.
        drain_s: seconds within which a backlog is to be worked off.
    """

    slo_s: float = 2.0
    headroom: float = 0.1
    safety: float = 1.75
    shrink_after_s: float = 300.0
    shrink_margin: float = 0.1
    least_saving: float = 0.05
    zero_after_s: float = 300.0
    drain_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """What one pool shall have, and why.

    Attributes:
        target: replicas.
        reason: for people.
        changed_at: when ``target`` last changed; ``-inf`` if never.
        supply: whether its hardware is to be had.
    """

    target: int
    reason: str = "as configured"
    changed_at: float = float("-inf")
    supply: Supply = field(default_factory=Supply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A decision, and all that the next one must remember.

    Attributes:
        pools: by name.
        required: row-steps a second that it is to serve.
        samples: demand of late.
        requirements: (time, required) of late.
        began: when the first decision was made.
        last_demand_at: when anything was last wanted.
        unmet_at: when replicas were last missing.
        boost, boosted_at: correction of the requirement by what latencies say.
        floor, floor_until, relapses: least boost, until when, and how often it was tried in vain.
    """

    pools: Mapping[str, PoolPlan] = field(default_factory=dict)
    required: float = 0.0
    samples: tuple[Sample, ...] = ()
    requirements: tuple[tuple[float, float], ...] = ()
    began: float | None = None
    last_demand_at: float = float("-inf")
    unmet_at: float = float("-inf")
    boost: float = 1.0
    boosted_at: float = float("-inf")
    floor: float = 1.0
    floor_until: float = float("-inf")
    relapses: int = 0

    @property
    def targets(self) -> dict[str, int]:
        """Replicas by pool."""
        return {name: pool.target for name, pool in self.pools.items()}


def plan(
    now: float, pools: Sequence[PoolView], demand: Demand, options: PlannerOptions, before: Plan
) -> Plan:
    """Decide anew.

    When what is there and on its way cannot serve what is required, the cheapest addition is made
    at once. Only when a cheaper fleet has sufficed for the whole stabilisation window are replicas
    taken away, and those of one pool only once those of the other that replace them are ready.

    At equal state, of two requirements the higher gets no less capacity and costs no less, with
    two exceptions that end by themselves: while a cheaper fleet is built beside the present one,
    and while a pool rests for a window after its last change. The targets keep the pools' bounds,
    but that a pool whose hardware is not to be had may be below its least.

    Args:
        now: seconds, on any clock.
        pools: all that the planner decides on.
        demand: what is wanted.
        options: how careful to be.
        before: the last decision; ``Plan()`` at first.
    """
    here = _remember(now, pools, demand, options, before)
    supplies = {pool.name: here.pools[pool.name].supply for pool in pools}
    low = {pool.name: supplies[pool.name].least(pool) for pool in pools}
    high = {pool.name: supplies[pool.name].most(pool) for pool in pools}
    present = {
        pool.name: max(low[pool.name], _filled(pool, min(high[pool.name], pool.target), high))
        for pool in pools
    }
    counted = {
        pool.name: supplies[pool.name].counted(replace(pool, target=present[pool.name]))
        for pool in pools
    }
    missing = here.required - capacity_of(pools, counted)
    if missing > _TINY:
        targets = _grown(pools, here.required, present, counted, high)
        reason = f"{here.required:.0f} row-steps/s required"
    else:
        targets = _shrunk(now, pools, here, options, present, low, high)
        reason = f"{here.required:.0f} row-steps/s required, {options.shrink_after_s:g} s long"
    return replace(here, pools=_told(now, pools, before, here, targets, reason))


def _filled(pool: PoolView, count: int, high: Mapping[str, int]) -> int:
    """``count``, and what else a node holds that is begun and paid for anyway."""
    whole = math.ceil(count / pool.per_node) * pool.per_node
    return whole if whole <= high[pool.name] else count


def _remember(
    now: float, pools: Sequence[PoolView], demand: Demand, options: PlannerOptions, before: Plan
) -> Plan:
    """``before`` with what is seen now, and with what is required now; targets still the old."""
    sample = Sample(now, demand.row_steps_per_s, demand.pictures_per_s)
    samples = (*(s for s in before.samples if s.at > now - TREND_S), sample)
    ahead_s = max(
        (pool.provisioning_s + pool.start_s for pool in pools if pool.capacity > 0), default=0.0
    )
    need = required(
        samples,
        demand,
        ahead_s=ahead_s,
        slo_s=options.slo_s,
        headroom=options.headroom,
        safety=options.safety,
        drain_s=options.drain_s,
    )
    boosted = _boosted(now, pools, demand, options, before)
    need *= boosted.boost
    wanted = demand.row_steps_per_s > 0 or demand.backlog > 0
    window = (*(r for r in before.requirements if r[0] > now - options.shrink_after_s), (now, need))
    return replace(
        boosted,
        pools={
            pool.name: _known(now, pool, before, wanted=_wanted(now, pool, pools, need, before))
            for pool in pools
        },
        required=need,
        samples=samples,
        requirements=window,
        began=now if before.began is None else before.began,
        last_demand_at=now if wanted else before.last_demand_at,
    )


def _wanted(
    now: float, pool: PoolView, pools: Sequence[PoolView], need: float, before: Plan
) -> bool:
    """Whether more of a pool out of stock would be used if only it could be had."""
    supplies = {name: old.supply for name, old in before.pools.items()}
    supply = supplies.get(pool.name)
    # Before its time to be probed the answer does not matter, and takes a solution to find.
    if supply is None or supply.state != "short" or now < supply.probe_at:
        return True
    high = {
        one.name: supplies[one.name].most(one)
        for one in pools
        if one.name != pool.name and one.name in supplies
    }
    return cheapest(pools, need, high=high)[pool.name] > pool.target - pool.unplaced


def _known(now: float, pool: PoolView, before: Plan, *, wanted: bool) -> PoolPlan:
    old = before.pools.get(pool.name, PoolPlan(target=pool.target))
    return replace(old, supply=old.supply.seen(pool, now, wanted=wanted))


def _boosted(
    now: float, pools: Sequence[PoolView], demand: Demand, options: PlannerOptions, before: Plan
) -> Plan:
    """``before`` with the correction that latencies call for.

    More while they miss the objective and work waits, although all that was asked for is there:
    then replicas do less than was thought. Where nothing waits more replicas would not help.
    """
    missing = any(
        pool.ready < pool.target
        for pool in pools
        if pool.name not in before.pools or before.pools[pool.name].supply.state == "open"
    )
    here = replace(before, unmet_at=now if missing else before.unmet_at)
    since = now - before.boosted_at
    if not (demand.p95_s is not None and demand.p95_s > options.slo_s and demand.backlog > 0):
        if before.boost == 1.0 or now < before.floor_until or since < _BOOST_DOWN_PERIOD_S:
            return here
        boost = max(1.0, before.boost * _BOOST_DOWN)
        relapses = before.relapses if boost > 1.0 else 0
        return replace(here, boost=boost, boosted_at=now, relapses=relapses)
    if since < _BOOST_PERIOD_S or now - here.unmet_at < _SETTLE_S:
        return here
    boost = min(_MOST_BOOST, before.boost * _BOOST_UP)
    relapses = before.relapses + (before.boost < before.floor)
    held_s = min(_MOST_FLOOR_S, _BOOST_FLOOR_S * 2**relapses)
    return replace(
        here,
        boost=boost,
        boosted_at=now,
        floor=boost,
        floor_until=now + held_s,
        relapses=relapses,
    )


def _grown(
    pools: Sequence[PoolView],
    need: float,
    present: Mapping[str, int],
    counted: Mapping[str, int],
    high: Mapping[str, int],
) -> dict[str, int]:
    """``present`` and the cheapest addition to it. What is not counted on is still asked for."""
    room = {name: max(0, high[name] - present[name]) for name in present}
    more = cheapest(
        pools, need - capacity_of(pools, counted), low=dict.fromkeys(present, 0), high=room
    )
    return {name: present[name] + more[name] for name in present}


def _shrunk(
    now: float,
    pools: Sequence[PoolView],
    here: Plan,
    options: PlannerOptions,
    present: Mapping[str, int],
    low: Mapping[str, int],
    high: Mapping[str, int],
) -> dict[str, int]:
    """``present`` less what has not been needed for the whole window."""
    targets = dict(present)
    began = now if here.began is None else here.began
    if now - began < options.shrink_after_s:
        return targets
    idle = now - max(here.last_demand_at, began) >= options.zero_after_s
    need = max(amount for _, amount in here.requirements) * (1 + options.shrink_margin)
    smallest = min((pool.capacity for pool in pools if pool.capacity > 0), default=0.0)
    need = 0.0 if idle else max(need, _LEAST_NEED * smallest, _TINY)
    costs = cost_of(pools, present)
    best = cheapest(pools, need, low=low, high=high)
    grows = any(best[name] > present[name] for name in best)
    if grows and cost_of(pools, best) >= costs * (1 - options.least_saving) - _TINY:
        # Not worth moving to other pools; the present ones may be too much all the same.
        best = cheapest(pools, need, low=low, high=present)
    enough = need <= 0 or capacity_of(pools, best) >= need - _TINY
    if not enough or cost_of(pools, best) >= costs - _TINY:
        return targets
    targets |= {
        name: count
        for name, count in best.items()
        if count > present[name] and _rested(now, here, name, options)
    }
    ready = {pool.name: min(pool.ready, present[pool.name]) for pool in pools}
    spare = capacity_of(pools, ready) - need
    # The costliest work first: it saves the most per row-step given up.
    for pool in sorted(pools, key=lambda p: -p.price / p.capacity if p.capacity > 0 else 0.0):
        name = pool.name
        while targets[name] - pool.per_node >= best[name] and _rested(now, here, name, options):
            lost = pool.capacity * pool.per_node
            if lost > spare + _TINY and need > 0:
                break
            targets[name] -= pool.per_node
            spare -= lost
    return targets


def _rested(now: float, here: Plan, name: str, options: PlannerOptions) -> bool:
    return now - here.pools[name].changed_at >= options.shrink_after_s


def _told(
    now: float,
    pools: Sequence[PoolView],
    before: Plan,
    here: Plan,
    targets: Mapping[str, int],
    reason: str,
) -> dict[str, PoolPlan]:
    """The plan of each pool, with the reason of what changed."""
    told = {}
    for pool in pools:
        was = before.pools.get(pool.name, PoolPlan(target=pool.target)).supply
        old, target = here.pools[pool.name], targets[pool.name]
        state = old.supply.state
        if old.supply.failing:
            why = "its replicas have nodes but do not get ready; no more are added"
        elif state == "short":
            why = "hardware not to be had; one node is asked for again in growing intervals"
        elif state == "probing":
            why = "asking for one node to see whether hardware is to be had"
        elif target != pool.target:
            why = f"{pool.target} to {target}: {reason}"
        elif was.failing:
            why = "its replicas get ready again"
        elif was.state != "open":
            why = "hardware is to be had again"
        else:
            why = old.reason
        changed_at = now if target != pool.target else old.changed_at
        told[pool.name] = replace(old, target=target, reason=why, changed_at=changed_at)
    return told
