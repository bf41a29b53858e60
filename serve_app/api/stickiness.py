"""The cookie that sends a client to the pool that painted for it before."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import Response

from serve_app.live import StickinessSettings


def read_sticky(
    request: Request, settings: StickinessSettings | None, pools: Collection[str]
) -> str | None:
    """The pool named by the request's cookie; ``None`` without one or for a pool unknown here."""
    if settings is None:
        return None
    name = request.cookies.get(settings.cookie)
    return name if name in pools else None


def set_sticky(response: Response, settings: StickinessSettings | None, pool: str) -> None:
    """Stick the client to ``pool`` for the full duration, as a load balancer does."""
    if settings is not None:
        response.set_cookie(
            settings.cookie, pool, max_age=settings.duration_s, httponly=True, samesite="lax"
        )
