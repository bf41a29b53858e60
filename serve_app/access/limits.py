"""Token buckets and counts of what is under way, by caller."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.access.settings import CallLimits
from serve_app.api.errors import ApiError

_BURST_S = 10.0
# Callers that are kept apart; the one that was quiet longest is forgotten first.
_MOST_CALLERS = 20_000


@dataclass(slots=True)
class _Caller:
    """One caller's bucket. ``tokens`` are requests it may send at once, as of ``at``."""

    tokens: float
    at: float
    running: int = 0


class CallerLimits:
    """Counts requests by caller; used on one event loop.

    Args:
        peers: ingress replicas that share the traffic, this one included.
        clock: monotonic seconds.
    """

    def __init__(
        self, peers: Callable[[], int] = lambda: 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._peers = peers
        self._clock = clock
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    @contextmanager
    def admitted(self, who: str, limits: CallLimits) -> Iterator[None]:
        """Count one request of ``who`` until the block ends.

        Raises:
            ApiError: 429 with the seconds after which it would be admitted.
        """
        now, peers = self._clock(), max(1, self._peers())
        rate, burst = _bucket(limits, peers)
        caller = self._callers.pop(who, None) or _Caller(burst, now)
        self._callers[who] = caller  # now the last to be forgotten
        self._forget()
        caller.tokens = min(burst, caller.tokens + (now - caller.at) * rate)
        caller.at = now
        if limits.concurrent is not None:
            most = max(1, limits.concurrent // peers)
            if caller.running >= most:
                raise _refused(
                    f"{caller.running} requests are under way, the most at one time; try again"
                    " when one is done",
                    "concurrency_limit_exceeded",
                    1,
                )
        if caller.tokens < 1:
            raise _refused(
                f"more than {limits.requests_per_minute:g} requests a minute",
                "rate_limit_exceeded",
                math.ceil((1 - caller.tokens) / rate),
            )
        caller.tokens -= 1
        caller.running += 1
        try:
            yield
        finally:
            caller.running -= 1

    def __len__(self) -> int:
        return len(self._callers)

    def _forget(self) -> None:
        if len(self._callers) <= _MOST_CALLERS:
            return
        quiet = next((who for who, caller in self._callers.items() if not caller.running), None)
        if quiet is not None:
            del self._callers[quiet]


def _bucket(limits: CallLimits, peers: int) -> tuple[float, float]:
    """Requests a second and at once, of one ingress replica."""
    if limits.requests_per_minute is None:
        return math.inf, math.inf
    rate = limits.requests_per_minute / 60 / peers
    burst = rate * _BURST_S if limits.burst is None else limits.burst / peers
    return rate, max(1.0, burst)


def _refused(message: str, code: str, retry_after_s: int) -> ApiError:
    return ApiError(429, message, code=code, headers={"Retry-After": str(retry_after_s)})
