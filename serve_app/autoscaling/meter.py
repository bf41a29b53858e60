"""What clients want of one ingress replica: arrivals, also of what is refused, and latencies."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque

from serve_app.routing.work import Work

WINDOW_S = 30.0
LATENCY_WINDOW_S = 60.0
_MOST = 4096
# Percentiles of fewer answers say little.
_MIN_COUNT = 20


class DemandMeter:
    """Counts on the event loop, read by the reporting thread. ``now`` is monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # (second, row-steps, pictures), one entry a second at most.
        self._arrived: deque[tuple[int, float, int]] = deque()
        # (time, seconds, work)
        self._answered: deque[tuple[float, float, Work]] = deque(maxlen=_MOST)
        self._held: Counter[str | None] = Counter()

    def arrived(self, work: Work, now: float) -> None:
        """A valid request came in."""
        second = int(now)
        with self._lock:
            if self._arrived and self._arrived[-1][0] == second:
                _, row_steps, pictures = self._arrived.pop()
            else:
                row_steps, pictures = 0.0, 0
            self._arrived.append((second, row_steps + work.row_steps, pictures + 1))

    def answered(self, work: Work, took_s: float, now: float) -> None:
        """``work`` was answered with a picture ``took_s`` after it came in."""
        with self._lock:
            self._answered.append((now, took_s, work))

    def held(self, row_steps: float, pin: str | None) -> None:
        """So much more work (less, when negative) waits for a pool to come up: any, or ``pin``."""
        with self._lock:
            self._held[pin] += row_steps  # type: ignore[assignment]

    def rates(self, now: float) -> tuple[float, float]:
        """Row-steps and pictures a second that arrived within ``WINDOW_S``."""
        with self._lock:
            while self._arrived and self._arrived[0][0] < now - WINDOW_S:
                self._arrived.popleft()
            row_steps = sum(entry[1] for entry in self._arrived)
            pictures = sum(entry[2] for entry in self._arrived)
        return row_steps / WINDOW_S, pictures / WINDOW_S

    def p95_s(self, now: float, default: Work) -> float | None:
        """95th percentile (nearest rank) of the latencies within ``LATENCY_WINDOW_S``.

        Each is divided by what it may take more than ``default``, so that it can be held against
        the objective: what a request of more steps takes longer by, no replica more would mend.
        """
        with self._lock:
            while self._answered and self._answered[0][0] < now - LATENCY_WINDOW_S:
                self._answered.popleft()
            took = sorted(seconds / work.allowance(default) for _, seconds, work in self._answered)
        return took[math.ceil(0.95 * len(took)) - 1] if len(took) >= _MIN_COUNT else None

    @property
    def held_row_steps(self) -> float:
        """Work that waits for any pool to come up."""
        with self._lock:
            return max(0.0, self._held[None])

    @property
    def held_pins(self) -> list[str]:
        """Pools that requests pinned to them wait for."""
        with self._lock:
            return [pin for pin, row_steps in self._held.items() if pin and row_steps > 0]
