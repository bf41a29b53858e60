"""What someone who watches a request being carried out is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deployments.messages import ImageEvent
from serve_app.routing.snapshot import PoolSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The request has gone to a pool.

    Attributes:
        pool: where it is now.
        attempt: 1 at first; with a later one the picture is begun anew (and comes out the same).
    """

    pool: PoolSnapshot
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The request waits in the ingress: for its turn, or for a first replica of any pool.

    Attributes:
        place: 1 for the next whose turn it is; ``None`` while there is no replica to wait for.
    """

    place: int | None


Seen = Sent | Waiting | ImageEvent
# Called in the event loop, and must return at once.
Watch = Callable[[Seen], None]
