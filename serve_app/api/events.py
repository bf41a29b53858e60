"""Server-sent events: an answer that begins before the picture is done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.api.errors import ApiError
from serve_app.api.middleware import internal_error
from serve_app.routing.outcome import DispatchError

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
# An error that comes this soon is answered with its own status, as clients know best.
_PATIENCE_S = 1.0


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """One event with JSON data."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def comment(text: str) -> bytes:
    """What clients skip, but connections are kept alive by; one line of ASCII."""
    return f": {ascii(text)[1:-1]}\n\n".encode()


class EventStream(Response):
    """A response whose events come from ``work``, with comments while there is nothing to tell.

    When the client leaves, ``work`` is cancelled.

    Args:
        work: does what is asked for and tells of it by the stream's ``send`` and ``hold``; its
            ``DispatchError`` or ``ApiError`` becomes the last event, by ``error_event``.
        request_id: for logs.
        heartbeat_s: longest silence in seconds.
        headers: of the response.
        error_event: name of the event that carries an error.
    """

    def __init__(
        self,
        work: Callable[[EventStream], Awaitable[None]],
        *,
        request_id: str,
        heartbeat_s: float,
        headers: Mapping[str, str],
        error_event: str = "error",
    ) -> None:
        # Proxies of the nginx kind hold events back without the last header.
        plain = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers={**headers, **plain}, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._request_id = request_id
        self._heartbeat_s = heartbeat_s
        self._error_event = error_event
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._begun = asyncio.Event()
        self._opened = False
        self._task = asyncio.ensure_future(self._run(work))

    def send(self, chunk: bytes) -> None:
        """Send an event or a comment; the response begins with the first."""
        self._chunks.put_nowait(chunk)
        self._begun.set()

    def hold(self, chunk: bytes) -> None:
        """Send it too, but as long as nothing else is sent an error may still come instead."""
        self._chunks.put_nowait(chunk)

    async def open(self) -> EventStream:
        """Wait a little for the first event.

        Raises:
            ApiError: the work failed before it; there is nothing to stream.
        """
        begun = asyncio.ensure_future(self._begun.wait())
        try:
            await asyncio.wait(
                {begun, self._task}, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            self._opened = True
            if self._task.done() and not self._begun.is_set():
                self._task.result()
        except asyncio.CancelledError:
            await self._stop()
            raise
        finally:
            begun.cancel()
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        left = asyncio.ensure_future(_disconnected(receive))
        left.add_done_callback(lambda _: self._chunks.put_nowait(None))
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            while (chunk := await self._next()) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not left.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            left.cancel()
            await self._stop()

    async def _next(self) -> bytes | None:
        try:
            async with asyncio.timeout(self._heartbeat_s):
                return await self._chunks.get()
        except TimeoutError:
            return comment("still there")

    async def _run(self, work: Callable[[EventStream], Awaitable[None]]) -> None:
        try:
            await work(self)
        except Exception as error:
            told = _as_api_error(error, self._request_id)
            if not self._opened and not self._begun.is_set():
                raise told from error
            self.send(event(self._error_event, told.body()))
        finally:
            self._chunks.put_nowait(None)

    async def _stop(self) -> None:
        if not self._task.done():
            log.info("request %s: the client has left its stream", self._request_id)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def _as_api_error(error: Exception, request_id: str) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DispatchError):
        return ApiError.from_dispatch(error)
    log.error("request %s failed inside", request_id, exc_info=error)
    return internal_error(request_id)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
