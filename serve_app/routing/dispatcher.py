"""Carries one request out along the router's ranking: send, wait, retry once, time limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from deployments.messages import ImageFailure, ImageRequest, ImageResult
from serve_app.routing.snapshot import PoolSnapshot

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5
_BUSY_RETRY_AFTER_S = 1
_ASIDE_S = 5.0  # about the time Serve needs to take a replica with a dead device away

DispatchCode = Literal[
    "unavailable",  # no pool (or not the pinned one) has a ready replica
    "lost",  # the replica died and so did the retry
    "timeout",  # the service's own time limit passed
    "invalid_request",
    "overloaded",
    "deadline_exceeded",
    "generation_failed",
    "device_error",
]


class ReplicaLostError(Exception):
    """The replica died or left before it answered; the request may be sent again."""


class DispatchError(Exception):
    """The request was not painted.

    Attributes:
        code: why, as a word.
        param: the request field at fault, if one is.
        retry_after_s: seconds after which trying again makes sense, if it does.
    """

    def __init__(
        self,
        code: DispatchCode,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


class Reply(Protocol):
    """A request under way."""

    async def result(self) -> ImageResult | ImageFailure:
        """The answer.

        Raises:
            ReplicaLostError: the replica is gone; retry.
        """

    def cancel(self) -> None:
        """Stop the work at the replica; harmless once it has ended."""


class PoolHandle(Protocol):
    """Where requests for one pool go in."""

    def generate(self, request: ImageRequest) -> Reply:
        """Send without waiting."""


class Pools(Protocol):
    """Where the dispatcher sees the pools."""

    def snapshots(self) -> list[PoolSnapshot]:
        """One snapshot per declared pool."""


class RankingPolicy(Protocol):
    """A routing policy."""

    def rank(self, pools: Sequence[PoolSnapshot]) -> list[str]:
        """Names of the available pools, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """A picture and the pool it came from."""

    result: ImageResult
    pool: PoolSnapshot


class Dispatcher:
    """Sends each request to exactly one pool at a time.

    A request is sent again, once, when its replica was lost or the pool answered with a
    retryable failure: to the next ranked pool, or to the same one if there is no other. The
    request is the same, so the picture is. A pool with a device error is set aside for a while,
    as long as another is available: a replica that fails at once would draw all requests.

    Every way out (answer, error, time limit, cancellation by the caller) leaves no work behind at
    the replica that was left.

    Args:
        handles: one handle per pool.
        pools: live view of the pools.
        policy: ranks the available pools.
        timeout_s: seconds from ``paint`` to its answer, retry included.
        watch_s: seconds between two checks that the pool in use still has a replica.
        aside_s: seconds for which a pool is set aside after a device error.
    """

    def __init__(
        self,
        handles: Mapping[str, PoolHandle],
        pools: Pools,
        policy: RankingPolicy,
        *,
        timeout_s: float,
        watch_s: float = 1.0,
        aside_s: float = _ASIDE_S,
    ) -> None:
        self._handles = handles
        self._pools = pools
        self._policy = policy
        self._timeout_s = timeout_s
        self._watch_s = watch_s
        self._aside_s = aside_s
        self._aside_until: dict[str, float] = {}

    async def paint(self, request: ImageRequest, pin: str | None = None) -> Painted:
        """Get ``request`` painted, on the pool ``pin`` only if given.

        Raises:
            DispatchError: it was not painted; see its ``code``.
            asyncio.CancelledError: the caller was cancelled; so is the replica's work.
        """
        limit = _Limit.of(self._timeout_s, request.deadline)
        ranking = [pin] if pin is not None else self._policy.rank(self._preferred())
        failed: DispatchError | None = None
        # The retry goes to the next pool; to the same one only if there is no other.
        for candidates in (ranking, ranking[1:] + ranking[:1]):
            pool = self._first_available(sorted(candidates, key=self._is_aside))
            if pool is None:
                break
            try:
                answer = await self._send(request, pool, limit)
            except ReplicaLostError as error:
                log.warning("request %s lost on pool %s: %s", request.request_id, pool.name, error)
                failed = DispatchError(
                    "lost",
                    f"the replica of pool {pool.name!r} was lost while painting; try again",
                    retry_after_s=_RETRY_AFTER_S,
                )
                continue
            if isinstance(answer, ImageResult):
                return Painted(result=answer, pool=pool)
            failed = _from_failure(answer)
            if answer.code == "device_error":
                self._aside_until[pool.name] = time.monotonic() + self._aside_s
            if not answer.retryable:
                break
        raise failed or self._unavailable(pin)

    def _preferred(self) -> list[PoolSnapshot]:
        """The available pools that are not set aside; when all are, all of them."""
        available = [pool for pool in self._pools.snapshots() if pool.available]
        return [pool for pool in available if not self._is_aside(pool.name)] or available

    def _is_aside(self, name: str) -> bool:
        return time.monotonic() < self._aside_until.get(name, 0.0)

    def _first_available(self, names: Sequence[str]) -> PoolSnapshot | None:
        """The first of ``names`` that has a ready replica now."""
        available = {pool.name: pool for pool in self._pools.snapshots() if pool.available}
        return next((available[name] for name in names if name in available), None)

    async def _send(
        self, request: ImageRequest, pool: PoolSnapshot, limit: _Limit
    ) -> ImageResult | ImageFailure:
        limit.check()
        reply = self._handles[pool.name].generate(request)
        answer = asyncio.ensure_future(reply.result())
        try:
            while True:
                await asyncio.wait({answer}, timeout=min(self._watch_s, limit.left_s()))
                if answer.done():
                    return answer.result()
                limit.check()
                if self._is_gone(pool.name):
                    raise ReplicaLostError("no replica is left")
        finally:
            # Also after ReplicaLostError: "unavailable" may mean that it is still at work.
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                answer.add_done_callback(_forget)
                reply.cancel()
                answer.cancel()

    def _is_gone(self, name: str) -> bool:
        return any(pool.name == name and pool.gone for pool in self._pools.snapshots())

    def _unavailable(self, pin: str | None) -> DispatchError:
        whys = [
            f"{pool.name}: {pool.why_unavailable}"
            for pool in self._pools.snapshots()
            if not pool.available and pin in (None, pool.name)
        ]
        which = f"pool {pin!r} is not available" if pin is not None else "no pool is available"
        return DispatchError(
            "unavailable",
            f"{which} ({'; '.join(whys)})",
            param=None if pin is None else "pool",
            retry_after_s=_RETRY_AFTER_S,
        )


@dataclass(frozen=True, slots=True)
class _Limit:
    """The earlier of the service's time limit and the caller's deadline."""

    at: float  # time.monotonic()
    code: Literal["timeout", "deadline_exceeded"]
    message: str

    @classmethod
    def of(cls, timeout_s: float, deadline: float | None) -> _Limit:
        """The limit for a request that starts now; ``deadline`` is unix time."""
        now = time.monotonic()
        if deadline is not None and deadline - time.time() < timeout_s:
            at = now + deadline - time.time()
            return cls(at, "deadline_exceeded", "the deadline passed before the picture was done")
        return cls(now + timeout_s, "timeout", f"not done within {timeout_s:g} s, the time limit")

    def left_s(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - time.monotonic())

    def check(self) -> None:
        """Raise DispatchError once the limit has passed."""
        if self.left_s() == 0:
            param = "deadline_ms" if self.code == "deadline_exceeded" else None
            raise DispatchError(self.code, self.message, param=param)


def _forget(answer: asyncio.Future[ImageResult | ImageFailure]) -> None:
    """Look at the outcome nobody waits for, so that asyncio does not complain."""
    if not answer.cancelled():
        answer.exception()


def _from_failure(failure: ImageFailure) -> DispatchError:
    waits: dict[str, int] = {"overloaded": _BUSY_RETRY_AFTER_S, "device_error": _RETRY_AFTER_S}
    late = failure.code == "deadline_exceeded"
    return DispatchError(
        failure.code,
        failure.message,
        param="deadline_ms" if late else failure.param,
        retry_after_s=waits.get(failure.code),
    )
