"""Where requests for a pool go in."""

from __future__ import annotations

from typing import Protocol

from deployments.messages import ImageFailure, ImageRequest, ImageResult
from serve_app.routing.watching import Watch


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

    def generate(self, request: ImageRequest, watch: Watch | None = None) -> Reply:
        """Send without waiting; ``watch`` is told what happens until the answer, if given."""
