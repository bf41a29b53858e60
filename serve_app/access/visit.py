"""What is noted of one HTTP request while it is answered."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

# As nginx has it: no status of HTTP says that nobody waited for the answer.
CLIENT_LEFT = 499


@dataclass(slots=True, kw_only=True)
class Visit:
    """One HTTP request. Tasks that its handler starts see the same one.

    Attributes:
        request_id, method: as sent or made up.
        route: the path as the service knows it; ``"other"`` for paths it does not.
        address: the client's.
        began: monotonic seconds.
        key: name of its API key; ``None`` for none.
        status: HTTP status; 499 when the client left before it had one.
        code: the error's word; ``None`` without an error.
        sent: bytes of the answer's body.
        prompt: of the first picture.
        pictures: asked for.
        painted: pool and seed of each picture painted.
        took_s: seconds from receipt to the answer's end.
    """

    request_id: str
    method: str
    route: str
    address: str
    began: float = field(default_factory=time.monotonic)
    key: str | None = None
    status: int = CLIENT_LEFT
    code: str | None = None
    sent: int = 0
    prompt: str | None = None
    pictures: int = 0
    painted: list[tuple[str, int]] = field(default_factory=list)
    took_s: float = 0.0


_current: ContextVar[Visit | None] = ContextVar("visit", default=None)


def current_visit() -> Visit | None:
    """The request that the running task works for, if any."""
    return _current.get()


def begin_visit(visit: Visit) -> None:
    """Let the running task, and those it starts, work for ``visit``."""
    _current.set(visit)
