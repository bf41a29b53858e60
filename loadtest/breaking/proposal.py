"""What follows from the break points: weights, targets, profiles, and what a picture costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.breaking.capacity import Estimate
from loadtest.breaking.finder import Found
from serve_app.routing.policies import PolicyOptions
from serve_app.routing.policies.cost import CostPolicy
from serve_app.routing.snapshot import PoolSnapshot, PoolState
from serve_app.routing.speed import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolProposal:
    """One pool's figures; rates in pictures a minute of one replica.

    Attributes:
        replicas: how many were measured together.
        capacity, break_point: of one replica, with 95 % bounds.
        limited_by: see ``Found``.
        profile: for ``user_config``; ``None``: not measured.
        price_per_hour: US dollars for a replica, if known.
        dollars_per_1000: for 1,000 pictures at the capacity.
        dollars_per_1000_at_break: the same at the break point, where replicas also wait.
        target_images_per_minute: load per replica at which to add another: the break point.
        target_ongoing_requests: requests in a replica then (Little's law), for Serve's
            ``autoscaling_config``.
        weight: proposed; ``None``: as it is.
        curve_images_per_minute: what the replica's calibrated step costs promise.
        step_cost_ms: these, by rows.
        notes: what spoils the figures.
    """

    replicas: int
    capacity: Estimate | None
    break_point: Estimate | None
    limited_by: str
    profile: Profile | None
    price_per_hour: float | None
    dollars_per_1000: float | None
    dollars_per_1000_at_break: float | None
    target_images_per_minute: float | None
    target_ongoing_requests: float | None
    weight: float | None
    curve_images_per_minute: float | None
    step_cost_ms: Mapping[str, float]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def profile_of(found: Found, replicas: int, slo_s: float) -> Profile | None:
    """What one replica does with default requests, as the router and the planner take it.

    What ``Speed.profile`` makes of a calibration, measured: the capacity, or where batches are so
    large that a picture takes longer than the objective, the most that was served in batches that
    did not. Not the break point, which has waiting in it: the planner adds room for that by itself,
    and the router works out from rate and latency how many requests are in a batch. A pool late
    even alone keeps its capacity, as settings know no rate of 0; its latency tells. ``None``: the
    pool was never saturated.
    """
    if found.capacity is None:
        return None
    rate = found.capacity.value
    told = [(trial.painting_s(50), trial.served_per_s) for trial in found.trials]
    if any(took is not None and took > slo_s for took, _ in told):
        rate = max((served for took, served in told if took and took <= slo_s), default=rate)
    return Profile(round(found.alone_s, 4), round(rate / replicas * 60, 2))


def ongoing_at(found: Found, rate: float) -> float | None:
    """Requests in the pool on average at a load, by Little's law from the nearest trial.

    Operations Research 9(3), 1961: rate times mean time in the pool.
    """
    below = [trial for trial in found.trials if any(one.ok for one in trial.settled)]
    if not below:
        return None
    nearest = min(below, key=lambda trial: abs(trial.rate - rate))
    settled = [one.latency_s for one in nearest.settled if one.ok]
    return rate * sum(settled) / len(settled)


def cost_weight(name: str, profile: Profile, shown: Mapping[str, Any], slo_s: float) -> float:
    """The weight that policy ``cost`` would give the pool; without a price its rate in time."""
    price = shown["price_per_hour"]
    if price is None:
        return 0.0 if profile.latency_s > slo_s else profile.images_per_minute
    snapshot = PoolSnapshot(
        name=name,
        accelerator=shown["accelerator"],
        framework=shown["framework"],
        weight=shown["weight"],
        max_replicas=shown["max_replicas"],
        state=PoolState(ready=max(1, shown["ready_replicas"])),
        price_per_hour=price,
        profile=profile,
    )
    return CostPolicy(PolicyOptions(slo_s=slo_s)).weight(snapshot)


def share_out(weights: Mapping[str, float], total: float) -> dict[str, float]:
    """Weights of the given sum in these proportions; whole ones where the sum is whole.

    Largest remainder (Hamilton's method): whole weights that sum to 100 hold exactly in every
    window of 100 requests. What is above 0 stays above 0.
    """
    every = sum(weights.values())
    exact = {name: weight / every * total for name, weight in weights.items()}
    positive = [name for name, weight in weights.items() if weight > 0]
    if total != int(total) or total < len(positive):
        return {name: round(weight, 4) for name, weight in exact.items()}
    whole = {name: max(int(exact[name]), 1 if name in positive else 0) for name in exact}
    while (left := int(total) - sum(whole.values())) != 0:
        step = 1 if left > 0 else -1
        able = [name for name in positive if step > 0 or whole[name] > 1]
        chosen = max(able, key=lambda name: step * (exact[name] - whole[name]))
        whole[chosen] += step
    return {name: float(weight) for name, weight in whole.items()}


def propose_weights(
    profiles: Mapping[str, Profile], shown: Mapping[str, Mapping[str, Any]], slo_s: float
) -> dict[str, float]:
    """Weights of every pool: the measured ones share out anew what they had together.

    Pools that miss the objective even alone get 0 and serve when no other can. ``{}``: all do, so
    that nothing speaks for other weights.

    Args:
        profiles: of the measured pools.
        shown: every pool's entry of ``/pools``.
        slo_s: the objective in seconds.
    """
    priced = all(shown[name]["price_per_hour"] is not None for name in profiles)
    wanted = {
        name: cost_weight(name, profile, {**shown[name], **({} if priced else _NO_PRICE)}, slo_s)
        for name, profile in profiles.items()
    }
    if not any(wanted.values()):
        return {}
    kept = {name: pool["weight"] for name, pool in shown.items() if name not in profiles}
    total = sum(shown[name]["weight"] for name in profiles) if kept else 100.0
    return {**kept, **share_out(wanted, total or 100.0)}


_NO_PRICE = {"price_per_hour": None}


def propose(
    found: Found,
    shown: Mapping[str, Any],
    *,
    slo_s: float,
    weight: float | None,
    curve_per_s: float | None,
) -> PoolProposal:
    """All figures of one pool.

    Args:
        found: its break point.
        shown: its entry of ``/pools`` while it was measured.
        slo_s: the objective in seconds.
        weight: proposed.
        curve_per_s: pictures a second that its calibrated step costs promise.
    """
    replicas = max(1, shown["ready_replicas"])
    price, capacity, point = shown["price_per_hour"], found.capacity, found.break_point
    per_minute = 60 / replicas

    def dollars(rate: Estimate | None) -> float | None:
        if price is None or rate is None or rate.value <= 0:
            return None
        per_picture: float = price * replicas / 3600 / rate.value
        return per_picture * 1000

    load = point.value if point is not None and point.value > 0 else None
    ongoing = None if load is None else ongoing_at(found, load)
    return PoolProposal(
        replicas=replicas,
        capacity=None if capacity is None else capacity.per(1 / per_minute),
        break_point=None if point is None else point.per(1 / per_minute),
        limited_by=found.limited_by,
        profile=profile_of(found, replicas, slo_s),
        price_per_hour=price,
        dollars_per_1000=dollars(capacity),
        dollars_per_1000_at_break=dollars(point),
        target_images_per_minute=None if load is None else load * per_minute,
        target_ongoing_requests=None if ongoing is None else ongoing / replicas,
        weight=weight,
        curve_images_per_minute=None if curve_per_s is None else curve_per_s * per_minute,
        step_cost_ms=dict((shown.get("measured") or {}).get("step_cost_ms", {})),
        notes=tuple(found.notes),
    )
