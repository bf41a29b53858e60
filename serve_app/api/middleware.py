"""The outermost layer: a request id on every answer, and no error outside the envelope."""

from __future__ import annotations

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.errors import ApiError

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-Id"
REQUEST_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"
_SAFE = re.compile(REQUEST_ID_PATTERN.strip("^$"))


class RequestIdMiddleware:
    """Gives each HTTP request an id (the client's, if it is safe) in ``request.state``.

    An exception is logged with that id and, unless an answer was already under way, becomes a
    500 that tells nothing of the inside. Cancellation passes through.

    Args:
        app: the application inside.
        echoed: whether the server in front adds the ``X-Request-Id`` it got (or made) to every
            answer by itself, as Serve's proxy does; then only an id that differs is added here.
    """

    def __init__(self, app: ASGIApp, *, echoed: bool = False) -> None:
        self._app = app
        self._echoed = echoed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = offered if _SAFE.fullmatch(offered) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        add_header = not (self._echoed and offered == request_id)
        started = ended = False

        async def send_with_id(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = True
                if add_header:
                    MutableHeaders(scope=message)[REQUEST_ID] = request_id
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("request %s: the client left before its body was read", request_id)
        except Exception:  # a bug of ours: logged, and answered if an answer can still be given
            log.exception("request %s failed inside", request_id)
            if started and not ended:
                raise
            if not started:
                await internal_error(request_id).response()(scope, receive, send_with_id)


def internal_error(request_id: str) -> ApiError:
    """What clients are told when something of ours broke."""
    return ApiError(500, f"internal error; quote {request_id}", code="internal_error")
