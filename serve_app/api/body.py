"""Reading a JSON request body: size counted on the way in, strict JSON."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from serve_app.api.errors import ApiError, bad_value
from serve_app.api.fields import shorten, shorten_name


async def read_json_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The request's body as a JSON object.

    Raises:
        ApiError: 415 for another content type or an encoded body, 413 past ``max_bytes``, 400
            for anything but one JSON object (NaN, Infinity and repeated keys are refused too).
    """
    _check_content_type(request)
    raw = await _read(request, max_bytes)
    try:
        value = json.loads(
            raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_repeats
        )
    except UnicodeDecodeError:
        raise bad_value(None, "the body is not UTF-8", code="invalid_json") from None
    except (ValueError, RecursionError) as error:
        reason = str(error)[:120] or "nested too deeply"
        raise bad_value(None, f"the body is not JSON: {reason}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_value(
            None, f"the body must be a JSON object, got {shorten(value)}", code="invalid_json"
        )
    return value


def _check_content_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            415,
            f"Content-Type: got {shorten(media_type)}; allowed: application/json",
            code="unsupported_media_type",
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            415,
            f"Content-Encoding: got {shorten(encoding)}; allowed: identity",
            code="unsupported_media_type",
        )


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body is larger than {max_bytes} bytes", code="body_too_large")


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
