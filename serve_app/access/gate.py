"""The gate before all routes: keys, limits and headers, before a byte of the body is read."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.access.address import caller_of, client_address
from serve_app.access.keys import Key, KeyRing
from serve_app.access.limits import CallerLimits
from serve_app.access.settings import AccessSettings
from serve_app.access.visit import current_visit
from serve_app.api.errors import ApiError

# What probes, and people who have yet to learn that a key is needed, must reach.
OPEN_ROUTES = frozenset({"/", "/health", "/readiness", "/docs", "/openapi.json"})
_OPEN_FOLDERS = ("/playground/",)
_PAINTING = ("/imagine", "/v1/images/")
_MAX_HEADER_BYTES = 64 * 1024


class Gate:
    """Lets requests in that may come in.

    Args:
        app: the application inside.
        settings: who may ask and how much.
        keys: the keys in force.
        limits: counts by caller.
    """

    def __init__(
        self, app: ASGIApp, settings: AccessSettings, keys: KeyRing, limits: CallerLimits
    ) -> None:
        self._app = app
        self._settings = settings
        self._trusted = settings.networks
        self._keys = keys
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            with self._let_in(scope):
                await self._app(scope, receive, send)
        except ApiError as error:  # ours alone: the application answers its own
            await error.response()(scope, receive, send)

    def _let_in(self, scope: Scope) -> AbstractContextManager[None]:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _MAX_HEADER_BYTES:
            raise ApiError(
                431,
                f"the headers are larger than {_MAX_HEADER_BYTES} bytes",
                code="headers_too_large",
                headers={"Connection": "close"},
            )
        path = scope["path"]
        if path in OPEN_ROUTES or path.startswith(_OPEN_FOLDERS):
            return nullcontext()
        key = self._key(scope)
        visit = current_visit()
        if visit is not None and key is not None:
            visit.key = key.name
        if not path.startswith(_PAINTING):
            return nullcontext()
        if key is not None:
            return self._limits.admitted(f"key {key.name}", key.limits)
        if self._settings.anonymous is None:
            return nullcontext()
        caller = caller_of(client_address(scope, self._trusted))
        return self._limits.admitted(f"address {caller}", self._settings.anonymous)

    def _key(self, scope: Scope) -> Key | None:
        """The caller's key; ``None`` where none is needed and none that is known is sent."""
        if not (self._settings.keys or self._settings.keys_file):
            return None  # keys are told apart for fair sharing, not checked
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer" and token:
            key = self._keys.find(token)
            if key is None:
                raise _unauthorised("the API key is not known", "invalid_api_key")
            return key
        if self._settings.asks:
            raise _unauthorised(
                "an API key is needed: send it as 'Authorization: Bearer KEY'", "missing_api_key"
            )
        return None


def _unauthorised(message: str, code: str) -> ApiError:
    return ApiError(401, message, code=code, headers={"WWW-Authenticate": 'Bearer realm="imagine"'})
