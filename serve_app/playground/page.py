"""``GET /`` and ``GET /playground/{version}/{name}``."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve_app.playground.files import File, Files

# Nothing inline, nothing from elsewhere; blob: are the pictures that the page itself holds.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"


class Playground:
    """Serves the page. Keeps no state, so any ingress replica may answer any of its requests.

    While replicas of two builds run side by side, a page may ask one of them for files of the
    other: it gets those that are there, not to be kept, rather than nothing.
    """

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or Files.load()

    async def page(self, request: Request) -> Response:
        """The HTML."""
        return _answer(request, self._files.page, _ASK_AGAIN)

    async def file(self, request: Request) -> Response:
        """One of the page's other files.

        Raises:
            HTTPException: 404 for a name that is none of them.
        """
        found = self._files.others.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        same = request.path_params["version"] == self._files.version
        return _answer(request, found, _FOR_EVER if same else _ASK_AGAIN)


def _answer(request: Request, file: File, caching: str) -> Response:
    headers = {**_HEADERS, "ETag": file.etag, "Cache-Control": caching}
    if _is_held(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)


def _is_held(held: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in held.split(",")]
    return etag in tags or "*" in tags
