"""Notes what becomes of each HTTP request, for the audit log and the metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.access.address import client_address
from serve_app.access.settings import Network
from serve_app.access.visit import Visit, begin_visit

# So that a scanner's made-up methods do not become labels.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"


class VisitMiddleware:
    """Lets every observer know of each request once it has ended, however it ended.

    Args:
        app: the application inside.
        routes: the paths that the service knows.
        trusted: networks of proxies that are believed.
        observers: told of each finished request; must not raise, nor take long.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Collection[str],
        trusted: Sequence[Network],
        observers: Sequence[Callable[[Visit], None]],
    ) -> None:
        self._app = app
        self._routes = frozenset(routes)
        self._trusted = trusted
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = Visit(
            request_id=scope["state"]["request_id"],
            method=scope["method"] if scope["method"] in _METHODS else OTHER,
            route=scope["path"] if scope["path"] in self._routes else OTHER,
            address=client_address(scope, self._trusted),
        )
        begin_visit(visit)

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
            elif message["type"] == "http.response.body":
                visit.sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            visit.took_s = time.monotonic() - visit.began
            for observe in self._observers:
                observe(visit)
