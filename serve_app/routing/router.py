"""Where one request goes, and why: a pure function of the pools, the policy and its wishes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from serve_app.routing.policies.base import Candidate, Policy
from serve_app.routing.prediction import predict
from serve_app.routing.snapshot import PoolSnapshot
from serve_app.routing.work import Work

Reason = Literal["policy", "sticky", "pinned", "retry", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the caller asks of the routing.

    Attributes:
        pin: the only pool to use.
        sticky: the pool that painted for this client before.
        key: whom the request is counted for when clients share fairly.
    """

    pin: str | None = None
    sticky: str | None = None
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitLimits:
    """Longest predicted waiting times in seconds; ``None`` and pools left out: no limit.

    Attributes:
        total: on any pool.
        pools: on one pool.
    """

    total: float | None = None
    pools: Mapping[str, float] = field(default_factory=dict)

    def of(self, pool: str) -> float:
        """The limit that holds on ``pool``."""
        return min(self.pools.get(pool, math.inf), math.inf if self.total is None else self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A pool, why it was chosen, and the predicted seconds until the picture is done."""

    pool: PoolSnapshot
    reason: Reason
    predicted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why no pool takes the request, and when trying again makes sense, if it does."""

    code: Literal["unavailable", "overloaded", "deadline_exceeded", "invalid_request"]
    message: str
    param: str | None = None
    retry_after_s: int | None = None


def route(
    pools: Sequence[PoolSnapshot],
    policy: Policy,
    work: Work,
    now: float,
    *,
    wishes: Wishes,
    limits: WaitLimits,
    left_s: float | None = None,
    failed: Collection[str] = (),
) -> Decision | Refusal:
    """Choose the pool for one request, among those that have its LoRA adapter and paint its size.

    A pinned request goes to its pool or nowhere. Others go to the pool that asks to be probed,
    to the one they stick to, or to the policy's first choice among those that keep the limits
    and the deadline. Pools whose breaker holds and pools on which this very request ``failed``
    are used only when there is no other.

    Args:
        pools: every declared pool.
        policy: ranks the candidates; its first choice counts as served.
        work: what the request asks for.
        now: monotonic seconds.
        wishes: of the caller.
        limits: on predicted waiting.
        left_s: seconds to the caller's deadline, if there is one.
        failed: names of pools that this request was tried on.
    """
    usable = in_rotation(pools, wishes.pin, work)
    if not any(pool.paints(work) for pool in usable):
        return unavailable(pools, wishes.pin, work)
    candidates = without(failed, weigh(usable, work, limits, left_s))
    if not any(one.fits for one in candidates):
        return refusal(candidates, work, limits, left_s)
    if wishes.pin is not None:
        return _decide(candidates[0], "retry" if failed else "pinned")
    if not failed:
        for pool in pools:
            if pool.probe and pool.available and pool.paints(work):
                total_s = predict(pool, work).total_s
                # A probe that fails is painted elsewhere, which takes its time again.
                if left_s is None or 2 * total_s <= left_s:
                    return Decision(pool=pool, reason="probe", predicted_s=total_s)
    if not failed and wishes.sticky is not None:
        for one in candidates:
            if one.pool.name == wishes.sticky and one.fits:
                return _decide(one, "sticky")
    first = policy.rank(candidates, now)[0]
    chosen = next(one for one in candidates if one.pool.name == first)
    return _decide(chosen, "retry" if failed else "policy")


def in_rotation(
    pools: Sequence[PoolSnapshot], pin: str | None, work: Work | None = None
) -> list[PoolSnapshot]:
    """The pools that may be sent a request: those not held, else all that are available.

    Also all if none of the others can paint ``work``. Those that cannot stay in the list: they are
    in the policy's books.
    """
    available = _available(pools, pin)
    free = [pool for pool in available if not pool.held]
    enough = any(work is None or pool.paints(work) for pool in free)
    return free if enough else available


def _available(pools: Sequence[PoolSnapshot], pin: str | None) -> list[PoolSnapshot]:
    return [pool for pool in pools if pool.available and pin in (None, pool.name)]


def without(failed: Collection[str], candidates: list[Candidate]) -> list[Candidate]:
    """The same candidates, but those that ``failed`` do not fit where any other does.

    They stay in the list: to a policy they are there as before, only not for this request.
    """
    others = [one.fits and one.pool.name not in failed for one in candidates]
    if not failed or not any(others):
        return candidates
    return [one._replace(fits=fits) for one, fits in zip(candidates, others, strict=True)]


def weigh(
    pools: Sequence[PoolSnapshot], work: Work, limits: WaitLimits, left_s: float | None
) -> list[Candidate]:
    """What each pool promises, and whether that is good enough.

    A pool that cannot paint this stays in the list, so that shares are counted as ever.
    """
    time_left = math.inf if left_s is None else left_s
    candidates = []
    for pool in pools:
        wait_s, total_s = predict(pool, work)
        in_time = wait_s <= limits.of(pool.name) and total_s <= time_left
        fits = in_time and pool.paints(work)
        candidates.append(Candidate(pool, wait_s, total_s, fits))
    return candidates


def refusal(
    candidates: Sequence[Candidate], work: Work, limits: WaitLimits, left_s: float | None
) -> Refusal:
    """Why none of ``candidates`` fits, some of which can paint ``work``."""
    candidates = [one for one in candidates if one.pool.paints(work)]
    crowded = [one for one in candidates if one.wait_s > limits.of(one.pool.name)]
    if left_s is not None and len(crowded) < len(candidates):
        best = min(candidates, key=lambda one: one.total_s)
        alone_s = best.total_s - best.wait_s
        later = None if alone_s > left_s else _whole_seconds(best.total_s - left_s)
        return Refusal(
            code="deadline_exceeded",
            message=f"no pool can be done within the {left_s * 1000:.0f} ms left: the soonest,"
            f" {best.pool.name}, takes about {best.total_s * 1000:.0f} ms,"
            f" {best.wait_s * 1000:.0f} ms of them waiting",
            param="deadline_ms",
            retry_after_s=later,
        )
    over = {one.pool.name: one.wait_s - limits.of(one.pool.name) for one in crowded}
    soonest = min(crowded, key=lambda one: over[one.pool.name])
    return Refusal(
        code="overloaded",
        message=f"too much is waiting: about {soonest.wait_s:.1f} s on {soonest.pool.name}, where"
        f" at most {limits.of(soonest.pool.name):g} s are allowed; try again later",
        retry_after_s=_whole_seconds(over[soonest.pool.name]),
    )


def unavailable(pools: Sequence[PoolSnapshot], pin: str | None, work: Work) -> Refusal:
    """No pool with the adapter, or not the pinned one, has a replica, or none paints the size."""
    lora = work.lora
    others = [pool for pool in _available(pools, pin) if pool.has(lora)]
    if work.size is not None and others:
        return _wrong_size(others, work.size)
    whys = [
        f"{pool.name}: {pool.why_unavailable}"
        for pool in pools
        if not pool.available and pin in (None, pool.name) and pool.has(lora)
    ]
    which = f"pool {pin!r} is not available" if pin is not None else "no pool is available"
    if lora is not None and pin is None:
        which = f"no pool with the LoRA adapter {lora!r} is available"
    return Refusal(
        code="unavailable",
        message=f"{which} ({'; '.join(whys)})",
        param=None if pin is None else "pool",
        retry_after_s=5,
    )


def _wrong_size(pools: Sequence[PoolSnapshot], size: tuple[int, int]) -> Refusal:
    widths = {width for pool in pools for width, _ in pool.sizes or ()}
    told = "; ".join(
        f"{pool.name}: {', '.join(f'{w} x {h}' for w, h in sorted(pool.sizes or ()))}"
        for pool in pools
    )
    return Refusal(
        code="invalid_request",
        message=f"width, height: got {size[0]} x {size[1]}, which no pool available now paints;"
        f" allowed: {told}",
        param="height" if size[0] in widths else "width",
    )


def _decide(one: Candidate, reason: Reason) -> Decision:
    return Decision(pool=one.pool, reason=reason, predicted_s=one.total_s)


def _whole_seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))
