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
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.caller import caller_key, checked_caller
from serve_app.api.errors import bad_value
from serve_app.api.fields import MAX_SEED
from serve_app.routing.outcome import Painted

KEY_HEADER = "Idempotency-Key"
# The official clients number their attempts, from 0, and send no key unless they are given one.
ATTEMPT_HEADER = "X-Stainless-Retry-Count"
KEPT_S = 600.0
MOST_BYTES = 32 * 2**20
MOST_CALLS = 1000
MOST_FAILED = 10_000
ROUTES = frozenset({"/v1/images/generations", "/v1/images/edits"})
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Ticket:
    """By what a call is known again.

    Attributes:
        caller: who calls.
        name: what the calls of ``caller`` that may be the same have in common.
        digest: of what is asked.
        attempt: 0 for the first; ``None`` where the client names its calls by a key.
    """

    caller: str
    name: str
    digest: str
    attempt: int | None

    @classmethod
    def of(cls, request: Request, asked: Mapping[str, Any]) -> Ticket | None:
        """The ticket of a call; ``None`` for a client that does not number its attempts.

        From here on it is for the call's ``Once`` to know what became of the attempt.

        Raises:
            ApiError: 400 for a key that is empty or too long.
        """
        digest, caller = _digest(request.url.path, asked), _caller(request)
        key = request.headers.get(KEY_HEADER)
        if key is not None:
            if not 0 < len(key) <= _LONGEST_KEY:
                raise bad_value(
                    KEY_HEADER,
                    f"{KEY_HEADER}: got {len(key)} characters; allowed: 1 to {_LONGEST_KEY}",
                )
            return cls(caller, f"key {key}", digest, None)
        attempt = attempt_of(request.headers)
        if attempt is None:
            return None
        request.state.ticketed = True
        return cls(caller, "asked", digest, attempt)

    @property
    def seed(self) -> int | None:
        """What is drawn for a call named by a key: the same on every ingress replica."""
        if self.attempt is not None:
            return None
        drawn = hashlib.sha256(f"{self.caller}\n{self.name}\n{self.digest}".encode())
        return int.from_bytes(drawn.digest()[:8]) % (MAX_SEED + 1)

    def is_like(self, other: Ticket) -> bool:
        """Whether both may be of one call."""
        if (self.caller, self.name) != (other.caller, other.name):
            return False
        return self.attempt is None or self.digest == other.digest


def attempt_of(headers: Mapping[str, str]) -> int | None:
    """The number of an attempt, from 0; ``None`` where there is none that makes sense."""
    attempt = headers.get(ATTEMPT_HEADER, "")
    if not (attempt.isascii() and attempt.isdigit() and len(attempt) < 4):
        return None
    return int(attempt)


@dataclass(slots=True, eq=False)
class _Call:
    """One painting, whoever waits for it."""

    ticket: Ticket
    task: asyncio.Future[list[Painted]]
    seed: int
    attempts: int
    waiting: int = 0
    done_at: float | None = None
    size: int = 0


@dataclass(slots=True)
class _Failed:
    """Calls that have failed, of one kind: when of late, and how many have not come again."""

    at: float
    count: int = 0


@dataclass(slots=True)
class Once:
    """Knows the calls under way and what was painted of late; for one ingress replica.

    A call with a key joins the call with the same key, or gets its pictures again. Without one, a
    client's attempt k joins a call that has the same contents and had k attempts before; but as
    many attempts as have failed before are painted first, since it may be theirs: two clients that
    ask the same must not get one picture. Others are painted. Only successes are kept, for ten
    minutes and within 32 MB: what is forgotten is painted again, as is what another ingress
    replica knows.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _calls: OrderedDict[int, _Call] = field(default_factory=OrderedDict)
    # By caller, contents (None: not known) and attempts had.
    _failed: OrderedDict[tuple[str, str | None, int], _Failed] = field(default_factory=OrderedDict)
    _bytes: int = 0

    async def paint(
        self,
        ticket: Ticket | None,
        seed: int,
        paint: Callable[[], Coroutine[Any, Any, list[Painted]]],
        joined: Callable[[int], None] = lambda seed: None,
    ) -> list[Painted]:
        """The pictures of a call; ``paint`` is called unless they are known or under way.

        When the last that wait for it leave, a painting ends.

        Args:
            ticket: by what it is known again.
            seed: of the first picture, if it is painted.
            paint: paints.
            joined: told the first seed of an earlier call, if its pictures are those that come.

        Raises:
            ApiError: 400: the key was used for another request.
            DispatchError: of the painting.
        """
        if ticket is None:
            return await paint()
        self._forget()
        call = self._find(ticket)
        if call is None:
            attempts = 1 if ticket.attempt is None else ticket.attempt + 1
            call = _Call(ticket, asyncio.ensure_future(paint()), seed, attempts)
            self._calls[id(call)] = call
        else:
            joined(call.seed)
            if ticket.attempt is not None:
                call.attempts = ticket.attempt + 1
        call.waiting += 1
        try:
            painted = await asyncio.shield(call.task)
        except BaseException:
            call.waiting -= 1
            if call.waiting == 0:
                call.task.cancel()
                self._drop(call)
                if ticket.attempt is not None:
                    self._has_failed(ticket.caller, ticket.digest, call.attempts)
            raise
        call.waiting -= 1
        self._keep(call, painted)
        return painted

    def failed_early(self, request: Request) -> None:
        """An attempt has ended before it came as far as a ticket: refused by the gate, say.

        What it asked for is not known, so the caller's next attempt of that number is painted
        whatever it asks for.
        """
        attempt = attempt_of(request.headers)
        if attempt is not None:
            self._has_failed(_caller(request), None, attempt + 1)

    def _find(self, ticket: Ticket) -> _Call | None:
        if ticket.attempt is not None and (
            ticket.attempt == 0 or self._failed_before(ticket, ticket.attempt)
        ):
            return None
        for call in self._calls.values():
            if not ticket.is_like(call.ticket):
                continue
            if ticket.attempt is not None:
                if ticket.attempt == call.attempts:
                    return call
            elif call.ticket.digest != ticket.digest:
                raise bad_value(
                    KEY_HEADER,
                    f"{KEY_HEADER}: was used for a request with other contents",
                    code="idempotency_key_reused",
                )
            else:
                return call
        return None

    def _has_failed(self, caller: str, digest: str | None, attempts: int) -> None:
        key, now = (caller, digest, attempts), self.clock()
        failed = self._failed.pop(key, None) or _Failed(now)
        failed.at, failed.count = now, failed.count + 1
        self._failed[key] = failed  # now the last to be forgotten
        while len(self._failed) > MOST_FAILED:
            self._failed.popitem(last=False)

    def _failed_before(self, ticket: Ticket, attempt: int) -> bool:
        """Whether it may be a call whose attempt before has failed; one such is then used up."""
        for digest in (ticket.digest, None):
            key = (ticket.caller, digest, attempt)
            failed = self._failed.get(key)
            if failed is None:
                continue
            failed.count -= 1
            if failed.count == 0:
                del self._failed[key]
            return True
        return False

    def _keep(self, call: _Call, painted: list[Painted]) -> None:
        if call.done_at is None and id(call) in self._calls:
            call.done_at = self.clock()
            call.size = sum(len(one.result.image) for one in painted)
            self._bytes += call.size

    def _forget(self) -> None:
        """What is too old, and of the rest the oldest while there is too much."""
        now = self.clock()
        while self._failed and now - next(iter(self._failed.values())).at > KEPT_S:
            self._failed.popitem(last=False)
        for call in list(self._calls.values()):
            if call.done_at is None:
                continue
            crowded = self._bytes > MOST_BYTES or len(self._calls) >= MOST_CALLS
            if crowded or now - call.done_at > KEPT_S:
                self._drop(call)

    def _drop(self, call: _Call) -> None:
        if self._calls.pop(id(call), None) is not None:
            self._bytes -= call.size


class AttemptsMiddleware:
    """Lets ``once`` know of the attempts that end before they have a ticket.

    Args:
        app: the application inside.
        once: is told.
    """

    def __init__(self, app: ASGIApp, once: Once) -> None:
        self._app = app
        self._once = once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] not in ROUTES:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            await self._app(scope, receive, send)
        finally:
            if not getattr(request.state, "ticketed", False):
                self._once.failed_early(request)


def _caller(request: Request) -> str:
    """Who calls; what is sent as a key tells callers apart even where it is not checked."""
    return f"{checked_caller(request)} {caller_key(request)}"


def _digest(path: str, asked: Mapping[str, Any]) -> str:
    found = hashlib.sha256(path.encode())
    for name, value in sorted(asked.items()):
        data = (
            value if isinstance(value, bytes) else repr(value).encode("utf-8", "backslashreplace")
        )
        found.update(f"{name} {type(value).__name__} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()
