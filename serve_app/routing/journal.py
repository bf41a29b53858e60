"""What the routing did and why: counts for ``/pools``, and the same to a metrics system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from deployments.messages import ImageRequest, ImageResult
from serve_app.access.visit import current_visit
from serve_app.routing.router import Decision


class RoutingMetrics(Protocol):
    """Where the counts are exported to."""

    def decided(self, decision: Decision) -> None:
        """A request is being sent; a second time if the reason is ``"retry"``."""

    def finished(self, decision: Decision, took_s: float, result: ImageResult) -> None:
        """A picture came back ``took_s`` after it was sent."""

    def failed(self, pool: str, cause: str) -> None:
        """A request was lost or failed on ``pool``."""

    def refused(self, code: str) -> None:
        """A request was not sent anywhere."""


class Journal:
    """Counts since the ingress replica started.

    Also notes on the HTTP request at hand what is asked for and who painted it.

    Args:
        metrics: where counts are exported to.
        pictures: told of every picture that came back, and how long after it was sent.

    Attributes:
        decisions: requests sent, by pool and reason.
        failures: requests lost or failed, by pool and cause.
        retries: requests sent a second time, by the pool they went to.
        refusals: requests refused, by code.
    """

    def __init__(
        self,
        metrics: RoutingMetrics | None = None,
        pictures: Sequence[Callable[[Decision, float], None]] = (),
    ) -> None:
        self._metrics = metrics
        self._pictures = pictures
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        self.retries: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    def asked(self, request: ImageRequest) -> None:
        """A picture is asked for."""
        visit = current_visit()
        if visit is not None:
            visit.pictures += 1
            visit.prompt = visit.prompt or request.prompt

    def decided(self, decision: Decision) -> None:
        """A request is being sent."""
        name, reason = decision.pool.name, decision.reason
        self.decisions[name, reason] += 1
        if reason == "retry":
            self.retries[name] += 1
        if self._metrics is not None:
            self._metrics.decided(decision)

    def finished(self, decision: Decision, took_s: float, result: ImageResult) -> None:
        """A picture came back."""
        visit = current_visit()
        if visit is not None:
            visit.painted.append((decision.pool.name, result.seed))
        for told in self._pictures:
            told(decision, took_s)
        if self._metrics is not None:
            self._metrics.finished(decision, took_s, result)

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
