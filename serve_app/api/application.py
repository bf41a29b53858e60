"""All HTTP routes as one ASGI application."""

from __future__ import annotations

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serve_app.access.gate import Gate
from serve_app.access.keys import KeyRing
from serve_app.access.limits import CallerLimits
from serve_app.api.cors import EXPOSED, HEADERS, METHODS, Cors
from serve_app.api.docs import Docs
from serve_app.api.errors import ApiError
from serve_app.api.front import Front
from serve_app.api.health import Health
from serve_app.api.imagine import Imagine
from serve_app.api.intake import Intake
from serve_app.api.middleware import RequestIdMiddleware, internal_error
from serve_app.api.openai.images import Images
from serve_app.api.openai.models import Models
from serve_app.api.openai.once import AttemptsMiddleware, Once
from serve_app.api.pools import Pools
from serve_app.api.visits import VisitMiddleware
from serve_app.playground.page import Playground


def create_app(
    front: Front, *, request_id_echoed: bool = False, once: Once | None = None
) -> ASGIApp:
    """The service's HTTP surface over ``front``; knows nothing of Ray.

    Args:
        front: what it stands on.
        request_id_echoed: see ``RequestIdMiddleware``.
        once: knows retries again; by default those of this ingress replica alone.

    Raises:
        SettingsError: the file of API keys is missing or bad.
    """
    intake = Intake(front)
    imagine, health, docs = Imagine(intake), Health(front), Docs(front)
    once = Once() if once is None else once
    images, models = Images(intake, once), Models(front)
    playground = Playground()
    painting = Route("/imagine", imagine.handle, methods=["GET", "POST"])
    # Starlette adds HEAD to GET, but a picture must not be painted to send its headers alone.
    (painting.methods or set()).discard("HEAD")
    app = Starlette(
        routes=[
            painting,
            Route("/v1/images/generations", images.generations, methods=["POST"]),
            Route("/v1/images/edits", images.edits, methods=["POST"]),
            Route("/v1/models", models.all),
            Route("/v1/models/{model:path}", models.one),
            Route("/health", health.health),
            Route("/readiness", health.readiness),
            Route("/pools", Pools(front).handle),
            Route("/openapi.json", docs.openapi),
            Route("/docs", docs.page),
            Route("/", playground.page),
            Route("/playground/{version}/{name}", playground.file),
        ],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            Exception: _unexpected_error,
        },
    )
    app.router.redirect_slashes = False
    known = {route.path for route in app.routes if isinstance(route, Route)}
    guarded = _guarded(app, front, known, once)
    return RequestIdMiddleware(guarded, echoed=request_id_echoed)


def _guarded(app: ASGIApp, front: Front, routes: set[str], once: Once) -> ASGIApp:
    """The application behind the gate, observed."""
    access = front.settings.access
    limits = CallerLimits(lambda: front.routing.peers)
    guarded: ASGIApp = Gate(app, access, KeyRing(access), limits)
    guarded = AttemptsMiddleware(guarded, once)
    if access.cors_origins:
        # Outside the gate: a browser asks first without the key.
        guarded = Cors(
            guarded,
            allow_origins=access.cors_origins,
            allow_methods=METHODS,
            allow_headers=HEADERS,
            expose_headers=EXPOSED,
        )
    return VisitMiddleware(guarded, routes, access.networks, front.observers)


async def _api_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: no such route, wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    messages = {
        404: f"no route {request.url.path[:200]!a}; see /docs",
        405: f"{request.method} is not allowed here; allowed: {headers.get('Allow', '')}",
    }
    return ApiError(
        error.status_code,
        messages.get(error.status_code, str(error.detail)),
        code=HTTPStatus(error.status_code).name.lower(),
        headers=headers,
    ).response()


async def _unexpected_error(request: Request, error: Exception) -> Response:
    """The middleware logs it, as Starlette raises it again."""
    return internal_error(request.state.request_id).response()
