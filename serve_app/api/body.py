"""Reading a request body: size and time counted on the way in; strict JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from starlette.requests import Request

from serve_app.api.caller import checked_caller
from serve_app.api.errors import ApiError, bad_value
from serve_app.api.quoting import shorten, shorten_name
from serve_app.api.slow_bodies import Reading, SlowBodies
from serve_app.settings import LimitSettings

_INLINE_BYTES = 256 * 1024  # parsed on the event loop: at most some 10 ms
_UNCOUNTED_BYTES = 64 * 1024
_IN_FLIGHT_BYTES = 24 * 2**20
_OTHER_MARKS = 256


class JsonBodies:
    """Reads request bodies as JSON objects; bounds what it holds and what blocks the event loop.

    Args:
        limits: what a request may ask for.
        slow: counts bodies that arrive slowly.
        parsing: where bodies too large for the event loop are parsed.
    """

    def __init__(self, limits: LimitSettings, slow: SlowBodies, parsing: Executor) -> None:
        self._max_bytes = limits.max_body_bytes
        self._timeout_s = limits.body_timeout_s
        # In the two prompts these are text; the rest of a request needs but a few.
        self._max_marks = 2 * limits.max_prompt_chars + _OTHER_MARKS
        self._slow = slow
        self._parsing = parsing
        self._room = max(_IN_FLIGHT_BYTES, limits.max_body_bytes)

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """The request's body as a JSON object; its bytes count as held until the end.

        Raises:
            ApiError: as for ``raw``; 400 for anything but one JSON object (NaN, Infinity and
                repeated keys are refused too).
        """
        async with self.raw(request, "application/json") as raw:
            yield await self._parse(raw)

    @asynccontextmanager
    async def raw(self, request: Request, media_type: str) -> AsyncIterator[bytearray]:
        """The bytes of a body of ``media_type``; they count as held until the end.

        Raises:
            ApiError: 415 for another content type or an encoded body, 413 past ``max_body_bytes``,
                408 past ``body_timeout_s``, 429 while too many bytes are held already or too many
                bodies arrive slowly.
        """
        _check_content_type(request, media_type)
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_bytes:
            raise self._too_large()
        raw, held, reading = bytearray(), 0, Reading()
        try:
            try:
                async with asyncio.timeout(self._timeout_s) as limit:
                    with self._slow.reading(checked_caller(request), limit) as reading:
                        async for part in request.stream():
                            held = self._take(raw, part, held)
            except TimeoutError:
                raise (_too_many() if reading.refused else self._too_slow()) from None
            yield raw
        finally:
            self._room += held

    def _take(self, raw: bytearray, part: bytes, held: int) -> int:
        """Add ``part`` to ``raw``; bytes that now count as held."""
        if len(raw) + len(part) > self._max_bytes:
            raise self._too_large()
        raw += part
        # So that slow uploads of pictures never lock out plain requests.
        more = max(0, len(raw) - _UNCOUNTED_BYTES) - held
        if more > self._room:
            raise _busy()
        self._room -= more
        return held + more

    async def _parse(self, raw: bytearray) -> dict[str, Any]:
        if len(raw) <= _INLINE_BYTES:
            return _parse(raw)
        # Counting is fast; Python objects take up to 30 times the bytes that describe them.
        if sum(map(raw.count, (b"[", b"{", b","))) > self._max_marks:
            raise bad_value(
                None, "the body is not JSON of a request: too many values", code="invalid_json"
            )
        return await asyncio.get_running_loop().run_in_executor(self._parsing, _parse, raw)

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is larger than {self._max_bytes} bytes", code="body_too_large"
        )

    def _too_slow(self) -> ApiError:
        return ApiError(
            408,
            f"the body did not arrive within {self._timeout_s:g} s",
            code="body_timeout",
            headers={"Connection": "close"},  # what is left of the body is not read
        )


def _parse(raw: bytearray) -> dict[str, Any]:
    """``raw`` as a JSON object; empties ``raw``, so that only one copy is held."""
    try:
        text = raw.decode("utf-8")
        raw.clear()
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except UnicodeDecodeError:
        raise bad_value(None, "the body is not UTF-8", code="invalid_json") from None
    except (ValueError, RecursionError) as error:
        reason = str(error)[:120] or "nested too deeply"
        raise bad_value(None, f"the body is not JSON: {reason}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_value(
            None, f"the body must be a JSON object, got {shorten(value)}", code="invalid_json"
        )
    for name, item in value.items():
        # Such text takes four bytes a character; it goes before anything waits with it.
        if isinstance(item, str) and len(item) > _INLINE_BYTES and not item.isascii():
            short = shorten_name(name)
            raise bad_value(short, f"{short}: of this length only base64 is allowed; not ASCII")
    return value


def _check_content_type(request: Request, allowed: str) -> None:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != allowed:
        raise ApiError(
            415,
            f"Content-Type: got {shorten(media_type)}; allowed: {allowed}",
            code="unsupported_media_type",
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            415,
            f"Content-Encoding: got {shorten(encoding)}; allowed: identity",
            code="unsupported_media_type",
        )


def _busy() -> ApiError:
    return ApiError(
        429,
        "too many large bodies are being read; try again",
        code="overloaded",
        headers={"Retry-After": "1"},
    )


def _too_many() -> ApiError:
    return ApiError(
        429,
        "too many request bodies arrive slowly; send this one again, all at once",
        code="overloaded",
        headers={"Retry-After": "1", "Connection": "close"},
    )


def _no_constant(word: str) -> NoReturn:
    raise bad_value(None, f"the body is not JSON: {word} is not allowed", code="invalid_json")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            name = shorten_name(key)
            raise bad_value(name, f"{name}: given more than once")
        found[key] = value
    return found
