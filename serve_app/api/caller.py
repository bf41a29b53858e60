"""Whom a request is counted for."""

from __future__ import annotations

import hashlib

from starlette.requests import Request

from serve_app.access.address import caller_of
from serve_app.access.visit import current_visit

_DIGITS = 16


def caller_key(request: Request) -> str:
    """The first 16 hex digits of the SHA-256 of the bearer token; ``""`` for nobody in particular.

    The token itself goes no further, so that no log or page can show it.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return ""
    return hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]


def checked_caller(request: Request) -> str:
    """The caller by what it cannot make up: the key that was checked, else its address."""
    visit = current_visit()
    if visit is None:
        return f"address {request.client.host if request.client else ''}"
    return f"address {caller_of(visit.address)}" if visit.key is None else f"key {visit.key}"
