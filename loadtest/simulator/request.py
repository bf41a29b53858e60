"""One request on its way through the simulated service."""

from __future__ import annotations

from serve_app.routing.work import Work


class Request:
    """What is remembered of a request until it has its outcome.

    Attributes:
        work: what it asks for.
        arrived_s: when it came, in simulated seconds.
        failed: the pool that lost it, in a tuple; ``()`` before that happens.
        held: whether it waits for any pool to be available.
        predicted_s: what the router last predicted, uncorrected.
        sent_s: when it was last sent to a pool.
    """

    __slots__ = ("arrived_s", "failed", "held", "predicted_s", "sent_s", "work")

    def __init__(self, work: Work, arrived_s: float) -> None:
        self.work = work
        self.arrived_s = arrived_s
        self.failed: tuple[str, ...] = ()
        self.held = False
        self.predicted_s = 0.0
        self.sent_s = arrived_s
