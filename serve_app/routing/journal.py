"""What the routing did and why: counts for ``/pools``, and the same to a metrics system."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from serve_app.routing.router import Decision


class RoutingMetrics(Protocol):
    """Where the counts are exported to."""

    def decided(self, decision: Decision) -> None:
        """A request is being sent; a second time if the reason is ``"retry"``."""

    def finished(self, decision: Decision, took_s: float) -> None:
        """A picture came back."""

    def failed(self, pool: str, cause: str) -> None:
        """A request was lost or failed on ``pool``."""

    def refused(self, code: str) -> None:
        """A request was not sent anywhere."""


class Journal:
    """Counts since the ingress replica started.

    Attributes:
        decisions: requests sent, by pool and reason.
        failures: requests lost or failed, by pool and cause.
        retries: requests sent a second time, by the pool they went to.
        refusals: requests refused, by code.
    """

    def __init__(self, metrics: RoutingMetrics | None = None) -> None:
        self._metrics = metrics
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        self.retries: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    def decided(self, decision: Decision) -> None:
        """A request is being sent."""
        name, reason = decision.pool.name, decision.reason
        self.decisions[name, reason] += 1
        if reason == "retry":
            self.retries[name] += 1
        if self._metrics is not None:
            self._metrics.decided(decision)

    def finished(self, decision: Decision, took_s: float) -> None:
        """A picture came back."""
        if self._metrics is not None:
            self._metrics.finished(decision, took_s)

    def failed(self, pool: str, cause: str) -> None:
        """A request was lost or failed on ``pool``."""
        self.failures[pool, cause] += 1
        if self._metrics is not None:
            self._metrics.failed(pool, cause)

    def refused(self, code: str) -> None:
        """A request was sent nowhere."""
        self.refusals[code] += 1
        if self._metrics is not None:
            self._metrics.refused(code)
