"""Rates over the last seconds, from running totals noted once a second."""

from __future__ import annotations

from collections import deque

TICK_S = 1.0


class Window:
    """A running total as it was at each tick of the last ``length_s`` seconds."""

    __slots__ = ("_noted",)

    def __init__(self, length_s: float) -> None:
        self._noted: deque[tuple[float, float]] = deque([(0.0, 0.0)], round(length_s / TICK_S) + 1)

    def note(self, now: float, total: float) -> None:
        """Once per tick."""
        self._noted.append((now, total))

    def since(self) -> float:
        """The total at the window's start."""
        return self._noted[0][1]

    def rate(self, now: float, total: float) -> float:
        """Mean increase per second from the window's start to ``now``."""
        started, before = self._noted[0]
        return (total - before) / (now - started) if now > started else 0.0
