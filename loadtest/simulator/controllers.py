"""What changes the routing while the service runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Controls(Protocol):
    """The handles a controller may turn."""

    def starved(self) -> Mapping[str, int]:
        """By pool, replicas that are wanted and for which no node can be had."""
        ...

    def weights(self) -> Mapping[str, float]:
        """Weights in force."""
        ...

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Change the weights of the pools given."""
        ...

    def set_policy(self, name: str) -> None:
        """Change the routing policy, by its name; ``failover`` only where the scenario learns."""
        ...


class Controller(Protocol):
    """Looks every ``period_s`` simulated seconds, first after one period."""

    @property
    def period_s(self) -> float:
        """Seconds between looks."""
        ...

    def control(self, now_s: float, controls: Controls) -> None:
        """Look, and change what needs changing."""
        ...


class SampleFailover:
    """Equal weights while any pool lacks capacity, the configured ones otherwise.

    As the sample does it: by a poll, so that it notices late both ways.
    """

    def __init__(self, period_s: float = 300.0) -> None:
        self.period_s = period_s
        self._configured: dict[str, float] | None = None

    def control(self, now_s: float, controls: Controls) -> None:
        """See ``Controller.control``."""
        short = any(controls.starved().values())
        if short and self._configured is None:
            self._configured = dict(controls.weights())
            controls.set_weights(dict.fromkeys(self._configured, 1.0))
        elif not short and self._configured is not None:
            controls.set_weights(self._configured)
            self._configured = None
