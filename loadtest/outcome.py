"""What came of one request."""

from __future__ import annotations

from dataclasses import dataclass

INTERRUPTED = "interrupted"
TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service made of a request.

    Attributes:
        pool: which pool painted; ``""``: none did.
        error: kind of the failure, e.g. ``"429 overloaded"``, ``"timeout"``,
            ``"connection: ConnectError"``; ``""``: there is a picture.
        painting_s: seconds in the batch (``Server-Timing`` less its queue), if told.
    """

    pool: str = ""
    error: str = ""
    painting_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request's times, in seconds from the start of the load, and its answer.

    Attributes:
        due_s: when the schedule wanted it sent.
        sent_s: when it was sent.
        done_s: when its answer was there.
        answer: the answer.
    """

    due_s: float
    sent_s: float
    done_s: float
    answer: Answer

    @property
    def ok(self) -> bool:
        """Whether there is a picture."""
        return not self.answer.error

    @property
    def interrupted(self) -> bool:
        """Whether the load ended before there could be an answer."""
        return self.answer.error == INTERRUPTED

    @property
    def latency_s(self) -> float:
        """Seconds from when it was due: a client that sends late hides no waiting."""
        return self.done_s - self.due_s

    @property
    def uncorrected_s(self) -> float:
        """Seconds from when it was sent, as a client sees it that waits before it sends."""
        return self.done_s - self.sent_s

    @property
    def lag_s(self) -> float:
        """Seconds by which the client was late."""
        return self.sent_s - self.due_s
