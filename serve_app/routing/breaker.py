"""A circuit breaker: a pool that keeps failing is left alone for a while, then tried once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]

# Requests that fail together (a replica with many in flight died) are one failure.
_BURST_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOptions:
    """See ``Breaker``.

    Attributes:
        failures: so many in a row open it.
        open_s: seconds it stays open at first.
        max_open_s: most seconds it stays open.
    """

    failures: int = 3
    open_s: float = 5.0
    max_open_s: float = 60.0


class Breaker:
    """Closed, open, half open (Nygard, Release It!, 2007). ``now`` is monotonic seconds.

    While open the pool gets nothing; then one request at a time may probe it. A probe that
    succeeds closes the breaker, one that fails opens it for twice as long as before.
    """

    def __init__(self, options: BreakerOptions) -> None:
        self.options = options
        self._failures = 0
        self._last_failure = -math.inf
        self._open_until: float | None = None
        self._opened_for = 0.0
        self._opened_at = -math.inf
        self._probing = False

    def state(self, now: float) -> State:
        """Which of the three it is."""
        if self._open_until is None:
            return "closed"
        return "half_open" if now >= self._open_until else "open"

    def holds(self, now: float) -> bool:
        """Whether ordinary requests are kept away."""
        return self._open_until is not None

    def wants_probe(self, now: float) -> bool:
        """Whether one request should try the pool now."""
        return self.state(now) == "half_open" and not self._probing

    def begin_probe(self) -> None:
        """A probe is under way; there is only one at a time."""
        self._probing = True

    def end_probe(self) -> None:
        """The probe has ended, however it did."""
        self._probing = False

    def reset(self) -> None:
        """The pool has new replicas: close."""
        self._failures = 0
        self._open_until = None
        self._opened_for = 0.0

    def succeeded(self, sent: float) -> None:
        """The pool did what was asked at ``sent``; if that was before opening, it says nothing."""
        if self._open_until is None or sent >= self._opened_at:
            self.reset()

    def failed(self, now: float, sent: float) -> None:
        """The pool lost a request that was ``sent`` then, or its device failed."""
        state = self.state(now)
        if state == "open" or (state == "half_open" and sent < (self._open_until or now)):
            return  # not the probe: it was sent before
        if state == "closed":
            if now - self._last_failure < _BURST_S:
                return
            self._failures += 1
            self._last_failure = now
            if self._failures < self.options.failures:
                return
        options = self.options
        self._opened_for = min(max(options.open_s, 2 * self._opened_for), options.max_open_s)
        self._opened_at, self._open_until = now, now + self._opened_for
        self._last_failure = now
