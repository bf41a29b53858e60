"""A client's automatic retry must not paint twice."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.errors import bad_value
from serve_app.api.openai.ledger import Found, Ledger
from serve_app.api.openai.ticket import KEY_HEADER, Ticket, attempt_of, caller_of_attempt
from serve_app.routing.outcome import Painted

ROUTES = frozenset({"/v1/images/generations", "/v1/images/edits"})


class Book(Protocol):
    """One ingress replica's way to a ledger. Nothing here fails: what is not known is painted."""

    def announce(self, call: str, ticket: Ticket, seed: int) -> None:
        """This replica paints a new call."""

    async def claim(self, call: str, ticket: Ticket, seed: int) -> Found | None:
        """The earlier call that this one is; ``None``: this replica paints it, as ``call``."""

    async def answer(self, call: str) -> list[Painted] | None:
        """The pictures of an earlier call; ``None``: this replica paints it from now on."""

    def end(self, call: str, painted: list[Painted] | None) -> None:
        """This replica has painted ``call``; or (``None``) does not any more."""

    def fail_early(self, caller: str, attempts: int) -> None:
        """See ``Ledger.fail_early``."""


class OwnBook:
    """Of a service with one ingress replica.

    Args:
        ledger: this replica's alone.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def announce(self, call: str, ticket: Ticket, seed: int) -> None:
        """See ``Book``."""
        self._ledger.begin("", call, ticket, seed)

    async def claim(self, call: str, ticket: Ticket, seed: int) -> Found | None:
        """See ``Book``."""
        return self._ledger.claim("", call, ticket, seed)

    async def answer(self, call: str) -> list[Painted] | None:
        """See ``Book``; nobody else paints, so there is nothing to wait for."""
        answer = await self._ledger.answer("", call)
        return answer if isinstance(answer, list) else None

    def end(self, call: str, painted: list[Painted] | None) -> None:
        """See ``Book``."""
        self._ledger.end("", call, painted)

    def fail_early(self, caller: str, attempts: int) -> None:
        """See ``Book``."""
        self._ledger.fail_early(caller, attempts)


@dataclass(slots=True, eq=False)
class _Painting:
    task: asyncio.Future[list[Painted]]
    waiting: int = 0


@dataclass(slots=True)
class Once:
    """Paints a call unless it is a retry of one that is under way or was painted of late.

    Which call is which is for the ledger to know. A retry joins the painting of this ingress
    replica, or waits for another's.

    Attributes:
        book: the way to the ledger.
    """

    book: Book = field(default_factory=lambda: OwnBook(Ledger()))
    _paintings: dict[str, _Painting] = field(default_factory=dict)

    async def paint(
        self,
        ticket: Ticket | None,
        seed: int,
        paint: Callable[[int], Coroutine[Any, Any, list[Painted]]],
        joined: Callable[[int], None] = lambda seed: None,
    ) -> list[Painted]:
        """The pictures of a call; ``paint`` is called unless they are known or under way.

        When the last that wait for it here leave, a painting ends.

        Args:
            ticket: by what it is known again.
            seed: of the first picture, if it is painted.
            paint: paints, given the first seed.
            joined: told the first seed of an earlier call, if its pictures are those that come.

        Raises:
            ApiError: 400: the key was used for another request.
            DispatchError: of the painting.
        """
        if ticket is None:
            return await paint(seed)
        call = secrets.token_hex(16)
        if ticket.attempt == 0:  # nothing to be found, nothing to wait for
            self.book.announce(call, ticket, seed)
            return await self._join(call, lambda: paint(seed))
        try:
            found = await self.book.claim(call, ticket, seed)
        except BaseException:
            self.book.end(call, None)
            raise
        if found is None:
            return await self._join(call, lambda: paint(seed))
        if found.digest != ticket.digest:
            raise bad_value(
                KEY_HEADER,
                f"{KEY_HEADER}: was used for a request with other contents",
                code="idempotency_key_reused",
            )
        joined(found.seed)
        if found.call not in self._paintings:
            painted = await self.book.answer(found.call)
            if painted is not None:
                return painted
        return await self._join(found.call, lambda: paint(found.seed))

    def failed_early(self, request: Request) -> None:
        """An attempt has ended before it came as far as a ticket: refused by the gate, say."""
        attempt = attempt_of(request.headers)
        if attempt is not None:
            self.book.fail_early(caller_of_attempt(request), attempt + 1)

    async def _join(
        self, call: str, paint: Callable[[], Coroutine[Any, Any, list[Painted]]]
    ) -> list[Painted]:
        """The painting of this ingress replica, which begins if there is none."""
        painting = self._paintings.get(call)
        if painting is None:
            painting = self._paintings[call] = _Painting(asyncio.ensure_future(paint()))
        painting.waiting += 1
        painted = None
        try:
            painted = await asyncio.shield(painting.task)
            return painted
        finally:
            painting.waiting -= 1
            over = painted is not None or painting.waiting == 0
            if over and self._paintings.get(call) is painting:
                painting.task.cancel()
                del self._paintings[call]
                self.book.end(call, painted)


class AttemptsMiddleware:
    """Lets ``once`` know of the attempts that end before they have a ticket.

    Not of those that were told not to come again, as they do not.

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
        request, final = Request(scope), False

        async def watched(message: Message) -> None:
            nonlocal final
            if message["type"] == "http.response.start":
                final = Headers(raw=message["headers"]).get("X-Should-Retry") == "false"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if not final and not getattr(request.state, "ticketed", False):
                self._once.failed_early(request)
