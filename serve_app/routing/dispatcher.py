"""Carries one request out: turn, route, send, wait, retry once, time limits, cancellation."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from deployments.messages import ImageFailure, ImageRequest, ImageResult
from serve_app.autoscaling.meter import DemandMeter
from serve_app.live import LiveSettings
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.fairness import FULL, FairGate
from serve_app.routing.holding import Holding
from serve_app.routing.journal import Journal
from serve_app.routing.outcome import (
    RETRY_AFTER_S,
    DispatchError,
    LateError,
    Painted,
    ReplicaHungError,
    ReplicaLostError,
    from_failure,
)
from serve_app.routing.policies import POLICIES, Policy, PolicyOptions
from serve_app.routing.pool_handle import PoolHandle
from serve_app.routing.router import (
    Decision,
    Refusal,
    WaitLimits,
    Wishes,
    in_rotation,
    refusal,
    route,
    unavailable,
    weigh,
)
from serve_app.routing.snapshot import PoolSnapshot
from serve_app.routing.time_limit import TimeLimit
from serve_app.routing.turn import Turn
from serve_app.routing.watching import Sent, Watch
from serve_app.routing.work import Work

log = logging.getLogger(__name__)

# A request given up after so many times its predicted time, and some seconds, speaks of a pool
# that does not work rather than of one that is slow.
_FAR, _FAR_S = 3.0, 1.0
# Looks at a pool until a loss has been noticed; more where replicas come and go with their nodes.
_SETTLE_LOOKS, _PATIENT = 2, 10
_MOST_SENDS = 8
_NO_WISHES = Wishes()


class Dispatcher:
    """Sends each request to exactly one pool at a time.

    A request is sent again, once, when its replica was lost or hung or the pool answered with a
    retryable failure: to the next pool, or to the same one if there is no other. The request is
    the same, so the picture is. Every way out (answer, error, time limit, cancellation by the
    caller) leaves no work behind at the replica that was left.

    Args:
        handles: one handle per pool.
        directory: live view of the pools.
        reference_pixels: the model's own picture size.
        timeout_s: seconds from ``paint`` to its answer, retry included.
        journal: where decisions are counted.
        meter: told of every request and answer.
        looked: told of the pools before each decision; must return at once.
        phase: see ``PolicyOptions``.
        watch_s: seconds between two checks that the pool in use still has a replica.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        handles: Mapping[str, PoolHandle],
        directory: PoolDirectory,
        *,
        reference_pixels: int,
        timeout_s: float,
        journal: Journal | None = None,
        meter: DemandMeter | None = None,
        looked: Callable[[Sequence[PoolSnapshot]], None] = lambda pools: None,
        phase: int = 0,
        watch_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handles = handles
        self._directory = directory
        self._reference_pixels = reference_pixels
        self._timeout_s = timeout_s
        self._phase = phase
        self._watch_s = watch_s
        self._clock = clock
        self._looked = looked
        self.journal = journal or Journal()
        self._meter = meter or DemandMeter()
        self._holding = Holding(self._meter, directory.elastic, directory.has)
        # One gate for all pools together, and one for each pool that requests are pinned to.
        self._gates = {pin: FairGate(partial(self._room, pin)) for pin in (None, *directory.names)}
        self.configure(LiveSettings())

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def waiting(self) -> int:
        """Requests waiting for their fair turn."""
        return sum(gate.waiting for gate in self._gates.values())

    @property
    def holding(self) -> int:
        """Requests waiting for a first replica of any pool."""
        return self._holding.waiting

    @property
    def peers(self) -> int:
        """Ingress replicas, this one included."""
        return self._directory.peers

    def configure(self, live: LiveSettings) -> None:
        """Take new live settings into force, from the next request on."""
        options = PolicyOptions(
            slo_s=live.slo_s,
            leave_after_s=live.failover.leave_after_s,
            return_after_s=live.failover.return_after_s,
            phase=self._phase,
        )
        chosen = POLICIES[live.policy]
        # A policy that stays remembers: weights that do not change keep their round.
        if not hasattr(self, "_policy") or (type(self._policy), self._policy.options) != (
            chosen,
            options,
        ):
            self._policy: Policy = chosen(options)
        self._limits = live.wait_limits(self._timeout_s)
        self._hang_after_s = live.recovery.hang_after_s
        self._holding.hold_s = live.admission.hold_s
        self._directory.configure(live)
        self._fairness = fairness = live.fairness
        for gate in self._gates.values():
            if fairness is not None:
                gate.configure(fairness.weights, fairness.default_weight)
            elif self._directory.elastic:
                # One queue for all, here and not at the replicas: what waits is for new ones too.
                gate.configure({})
            else:
                gate.configure(None)

    async def paint(
        self,
        request: ImageRequest,
        wishes: Wishes = _NO_WISHES,
        watch: Watch | None = None,
    ) -> Painted:
        """Get ``request`` painted.

        Args:
            request: what to paint.
            wishes: of the caller.
            watch: told where the request goes and how the picture gets on.

        Raises:
            DispatchError: it was not painted; see its ``code``.
            asyncio.CancelledError: the caller was cancelled; so is the replica's work.
        """
        began = self._clock()
        limit = TimeLimit.of(self._timeout_s, request.time_left_s, self._clock)
        work = Work.of(request, self._reference_pixels)
        self._meter.arrived(work, began)
        self.journal.asked(request)
        held = not self._directory.has(wishes.pin, work.lora)
        painted = await self._in_turn(request, work, wishes, limit, watch)
        if not held:  # else the time says how fast replicas come, not whether there are enough
            self._meter.answered(work, self._clock() - began, self._clock())
        return painted

    async def _in_turn(
        self,
        request: ImageRequest,
        work: Work,
        wishes: Wishes,
        limit: TimeLimit,
        watch: Watch | None,
    ) -> Painted:
        gate = self._gates[wishes.pin]
        if not gate.active:
            return await self._paint(request, work, wishes, limit, self._limits, watch)
        if not self._directory.has(wishes.pin, work.lora):
            await self._holding.wait(work, wishes.pin, limit.left_s, watch)
            self._check(limit)
        key = wishes.key if self._fairness is not None else ""
        self._admit(gate, key, work, wishes.pin, limit)
        try:
            held = partial(self._meter.held, pin=wishes.pin)
            async with Turn(gate, key, work, limit, held, watch):
                return await self._paint(request, work, wishes, limit, WaitLimits(), watch)
        except LateError as error:
            self.journal.refused(error.code)
            raise

    def _admit(
        self, gate: FairGate, key: str, work: Work, pin: str | None, limit: TimeLimit
    ) -> None:
        """Refuse at once what would wait too long for its turn, or could not be done after it.

        What waits at the pools themselves is little, and no fault of this caller: only its own
        key's turn counts as waiting.
        """
        pools = self._directory.snapshots()
        usable = in_rotation(pools, pin, work)
        if not any(pool.paints(work) for pool in usable):
            raise self._refused(unavailable(pools, pin, work))
        rate = _row_steps_per_s(usable)
        turn_s = gate.ahead(key) / rate if rate > 0 else 0.0
        candidates = [
            one._replace(wait_s=turn_s, total_s=one.total_s + turn_s)
            for one in weigh(usable, work, self._limits, None)
        ]
        left_s = limit.deadline_left_s()
        if not any(
            one.wait_s <= self._limits.of(one.pool.name)
            and (left_s is None or one.total_s <= left_s)
            and one.pool.paints(work)
            for one in candidates
        ):
            raise self._refused(refusal(candidates, work, self._limits, left_s))

    async def _paint(
        self,
        request: ImageRequest,
        work: Work,
        wishes: Wishes,
        limit: TimeLimit,
        limits: WaitLimits,
        watch: Watch | None,
    ) -> Painted:
        failed: dict[str, DispatchError] = {}
        sent = 0
        while True:
            pools = self._directory.snapshots()
            self._looked(pools)
            choice = route(
                pools,
                self._policy,
                work,
                self._clock(),
                wishes=wishes,
                # What was admitted once is not refused for waiting when its replica is lost.
                limits=WaitLimits() if failed else limits,
                left_s=limit.deadline_left_s(),
                failed=failed,
            )
            if isinstance(choice, Refusal):
                # The last replica may have gone while this request was on its way.
                if choice.code == "unavailable" and await self._holding.wait(
                    work, wishes.pin, limit.left_s, watch
                ):
                    continue
                raise next(iter(failed.values()), None) or self._refused(choice)
            self._check(limit)
            self.journal.decided(choice)
            if watch is not None:
                watch(Sent(pool=choice.pool, attempt=sent + 1))
            answer = await self._attempt(request, work, choice, limit, watch)
            if isinstance(answer, ImageResult):
                return Painted(result=answer, pool=choice.pool, reason=choice.reason)
            failure, again = answer
            sent += 1
            # Serve notices the replicas of a lost node one by one: each may take one request down.
            last = self._directory.elastic and not self._elsewhere(work, wishes.pin, failed)
            most = _MOST_SENDS if last and failure.code == "lost" else 2
            if not again or sent >= most:
                raise failure
            failed[choice.pool.name] = failure
            elsewhere = partial(self._elsewhere, work, wishes.pin, failed)
            if not elsewhere():
                # What does not suit one pool never will, but may suit another.
                if failure.code == "invalid_request":
                    raise failure
                await self._noticed(choice.pool, elsewhere, limit)

    async def _noticed(
        self, pool: PoolSnapshot, elsewhere: Callable[[], bool], limit: TimeLimit
    ) -> None:
        """Wait until Serve has noticed what was lost, where that was all there is.

        Until then the pool looks as before, and the request would be lost there once more.
        """
        looks = _SETTLE_LOOKS * (_PATIENT if self._directory.elastic else 1)
        for _ in range(looks):
            await asyncio.sleep(min(limit.left_s(), self._watch_s))
            ready = self._directory.ready(pool.name)
            if ready != pool.ready or limit.left_s() == 0 or elsewhere():
                return

    async def _attempt(
        self,
        request: ImageRequest,
        work: Work,
        choice: Decision,
        limit: TimeLimit,
        watch: Watch | None,
    ) -> ImageResult | tuple[DispatchError, bool]:
        """The picture; or what went wrong and whether another pool may do better."""
        name, began = choice.pool.name, self._clock()
        record = self._directory.record(name)
        raw_s = choice.predicted_s / choice.pool.correction
        record.load.add(work)
        if choice.reason == "probe":
            record.breaker.begin_probe()
        try:
            answer = await self._send(request, choice, limit, watch)
        except ReplicaLostError as error:
            log.warning("request %s lost on pool %s: %s", request.request_id, name, error)
            hung = isinstance(error, ReplicaHungError)
            record.breaker.failed(self._clock(), began)
            self.journal.failed(name, "hung" if hung else "lost")
            how = "does not answer" if hung else "was lost while painting"
            return DispatchError(
                "lost",
                f"the replica of pool {name!r} {how}; try again",
                retry_after_s=RETRY_AFTER_S,
            ), True
        except DispatchError as error:  # a time limit: the pool may be slower than thought
            elapsed = self._clock() - began
            record.observations.overdue(elapsed, raw_s, self._clock())
            if raw_s > 0 and elapsed > _FAR * choice.predicted_s + _FAR_S:
                record.breaker.failed(self._clock(), began)
            self.journal.failed(name, error.code)
            raise
        finally:
            record.load.remove(work)
            if choice.reason == "probe":
                record.breaker.end_probe()
        if isinstance(answer, ImageResult):
            took_s = self._clock() - began
            record.breaker.succeeded(began)
            record.observations.answered(took_s, raw_s, self._clock())
            self.journal.finished(choice, took_s, answer)
            return answer
        self.journal.failed(name, answer.code)
        if answer.code in ("device_error", "generation_failed"):
            record.breaker.failed(self._clock(), began)
        return from_failure(answer, choice.predicted_s), answer.retryable

    async def _send(
        self, request: ImageRequest, choice: Decision, limit: TimeLimit, watch: Watch | None
    ) -> ImageResult | ImageFailure:
        name = choice.pool.name
        patience_s = self._hang_after_s
        if choice.pool.speed is None:  # nothing is predicted: as much again for each one ahead
            patience_s *= 1 + choice.pool.load.requests / max(1, choice.pool.ready)
        hung_at = self._clock() + choice.predicted_s + patience_s
        # Nodes' clocks differ: the replica is told how long it has, not until when.
        left_s = limit.deadline_left_s()
        reply = self._handles[name].generate(replace(request, time_left_s=left_s), watch)
        answer = asyncio.ensure_future(reply.result())
        try:
            while True:
                left_s = min(limit.left_s(), max(0.0, hung_at - self._clock()))
                await asyncio.wait({answer}, timeout=min(self._watch_s, left_s))
                if answer.cancelled():  # by Serve, not by us: the caller still waits
                    raise ReplicaLostError("cancelled by Serve")
                if answer.done():
                    return answer.result()
                limit.check()
                if self._is_gone(name):
                    raise ReplicaLostError("no replica is left")
                if self._clock() >= hung_at:
                    raise ReplicaHungError(f"no answer {patience_s:g} s after it was due")
        finally:
            # Also after ReplicaLostError: "unavailable" may mean that it is still at work.
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                answer.add_done_callback(_forget)
                reply.cancel()
                answer.cancel()

    def _refused(self, why: Refusal) -> DispatchError:
        self.journal.refused(why.code)
        return DispatchError(
            why.code, why.message, param=why.param, retry_after_s=why.retry_after_s
        )

    def _check(self, limit: TimeLimit) -> None:
        try:
            limit.check()
        except LateError as error:
            self.journal.refused(error.code)
            raise

    def _elsewhere(self, work: Work, pin: str | None, failed: Collection[str]) -> bool:
        return pin is None and any(
            self._directory.has(name, work.lora)
            for name in self._directory.names
            if name not in failed
        )

    def _is_gone(self, name: str) -> bool:
        return any(pool.name == name and pool.gone for pool in self._directory.snapshots())

    def _room(self, pin: str | None) -> float:
        """Rows that this ingress replica may have at the pools when clients share fairly."""
        usable = in_rotation(self._directory.snapshots(), pin)
        rows = sum(pool.ready * (pool.speed.max_rows if pool.speed else 2) for pool in usable)
        return FULL * rows / self._directory.peers


def _row_steps_per_s(pools: list[PoolSnapshot]) -> float:
    """What the pools do together when full."""
    return sum(
        pool.ready * pool.speed.max_rows / pool.speed.step_ms(pool.speed.max_rows) * 1000
        / pool.correction
        for pool in pools
        if pool.speed is not None
    )  # fmt: skip


def _forget(answer: asyncio.Future[ImageResult | ImageFailure]) -> None:
    """Look at the outcome nobody waits for, so that asyncio does not complain."""
    if not answer.cancelled():
        answer.exception()
