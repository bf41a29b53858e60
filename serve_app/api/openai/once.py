"""A client's automatic retry must not paint twice."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from serve_app.api.caller import caller_key
from serve_app.api.errors import ApiError, bad_value
from serve_app.routing.outcome import Painted

KEY_HEADER = "Idempotency-Key"
# The official clients number their attempts, from 0, and send no key unless they are given one.
ATTEMPT_HEADER = "X-Stainless-Retry-Count"
KEPT_S = 600.0
MOST_BYTES = 32 * 2**20
MOST_CALLS = 1000
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Ticket:
    """By what a call is known again.

    Attributes:
        name: what the calls that may be the same have in common.
        digest: of what is asked.
        attempt: 0 for the first; ``None`` where the client names its calls by a key.
    """

    name: str
    digest: str
    attempt: int | None

    @classmethod
    def of(cls, request: Request, asked: Mapping[str, Any]) -> Ticket | None:
        """The ticket of a call; ``None`` for a client that does not number its attempts.

        Raises:
            ApiError: 400 for a key that is empty or too long.
        """
        digest = _digest(request.url.path, asked)
        key = request.headers.get(KEY_HEADER)
        if key is not None:
            if not 0 < len(key) <= _LONGEST_KEY:
                raise bad_value(
                    KEY_HEADER,
                    f"{KEY_HEADER}: got {len(key)} characters; allowed: 1 to {_LONGEST_KEY}",
                )
            return cls(f"key {caller_key(request)} {key}", digest, None)
        attempt = request.headers.get(ATTEMPT_HEADER, "")
        if not (attempt.isascii() and attempt.isdigit() and len(attempt) < 4):
            return None
        return cls(f"asked {caller_key(request)} {digest}", digest, int(attempt))


@dataclass(slots=True, eq=False)
class _Call:
    """One painting, whoever waits for it."""

    ticket: Ticket
    task: asyncio.Future[list[Painted]]
    attempts: int = 1
    waiting: int = 0
    done_at: float | None = None
    size: int = 0


@dataclass(slots=True)
class Once:
    """Knows the calls under way and what was painted of late; for one ingress replica.

    A call with a key joins the call with the same key, or gets its pictures again. Without one, a
    client's attempt k joins a call that has the same contents and had k attempts before. Others are
    painted. Only successes are kept, for ten minutes and within 32 MB: what is forgotten is painted
    again, as is what another ingress replica knows.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _calls: OrderedDict[int, _Call] = field(default_factory=OrderedDict)
    _bytes: int = 0

    async def paint(
        self, ticket: Ticket | None, paint: Callable[[], Coroutine[Any, Any, list[Painted]]]
    ) -> list[Painted]:
        """The pictures of a call; ``paint`` is called unless they are known or under way.

        When the last that wait for it leave, a painting ends.

        Raises:
            ApiError: 422: the key was used for another request.
            DispatchError: of the painting.
        """
        if ticket is None:
            return await paint()
        self._forget()
        call = self._find(ticket)
        if call is None:
            call = _Call(ticket, asyncio.ensure_future(paint()))
            self._calls[id(call)] = call
        elif ticket.attempt is not None:
            call.attempts = ticket.attempt + 1
        call.waiting += 1
        try:
            painted = await asyncio.shield(call.task)
        except BaseException:
            call.waiting -= 1
            if call.waiting == 0:
                call.task.cancel()
                self._drop(call)
            raise
        call.waiting -= 1
        self._keep(call, painted)
        return painted

    def _find(self, ticket: Ticket) -> _Call | None:
        for call in self._calls.values():
            if call.ticket.name != ticket.name:
                continue
            if ticket.attempt is not None:
                if 0 < ticket.attempt == call.attempts:
                    return call
            elif call.ticket.digest != ticket.digest:
                raise ApiError(
                    422,
                    f"{KEY_HEADER}: was used for a request with other contents",
                    code="idempotency_key_reused",
                    param=KEY_HEADER,
                )
            else:
                return call
        return None

    def _keep(self, call: _Call, painted: list[Painted]) -> None:
        if call.done_at is None and id(call) in self._calls:
            call.done_at = self.clock()
            call.size = sum(len(one.result.image) for one in painted)
            self._bytes += call.size

    def _forget(self) -> None:
        """What is too old, and of the rest the oldest while there is too much."""
        now = self.clock()
        for call in list(self._calls.values()):
            if call.done_at is None:
                continue
            crowded = self._bytes > MOST_BYTES or len(self._calls) >= MOST_CALLS
            if crowded or now - call.done_at > KEPT_S:
                self._drop(call)

    def _drop(self, call: _Call) -> None:
        if self._calls.pop(id(call), None) is not None:
            self._bytes -= call.size


def _digest(path: str, asked: Mapping[str, Any]) -> str:
    found = hashlib.sha256(path.encode())
    for name, value in sorted(asked.items()):
        data = (
            value if isinstance(value, bytes) else repr(value).encode("utf-8", "backslashreplace")
        )
        found.update(f"{name} {type(value).__name__} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()
