"""How long a request may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serve_app.routing.outcome import LateError


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The earlier of the service's time limit and the caller's deadline."""

    at: float
    code: Literal["timeout", "deadline_exceeded"]
    message: str
    clock: Callable[[], float]

    @classmethod
    def of(
        cls, timeout_s: float, time_left_s: float | None, clock: Callable[[], float]
    ) -> TimeLimit:
        """The limit for a request that starts now; ``time_left_s`` is the caller's own."""
        now = clock()
        if time_left_s is not None and time_left_s < timeout_s:
            late = "the deadline passed before the picture was done"
            return cls(now + time_left_s, "deadline_exceeded", late, clock)
        late = f"not done within {timeout_s:g} s, the time limit"
        return cls(now + timeout_s, "timeout", late, clock)

    def left_s(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - self.clock())

    def deadline_left_s(self) -> float | None:
        """Seconds left to the caller's deadline; ``None`` when the service's limit is earlier."""
        return self.left_s() if self.code == "deadline_exceeded" else None

    def check(self) -> None:
        """Raise DispatchError once the limit has passed."""
        if self.left_s() == 0:
            param = "deadline_ms" if self.code == "deadline_exceeded" else None
            raise LateError(self.code, self.message, param=param)
