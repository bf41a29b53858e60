"""Which pages of other origins may ask."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from serve_app.api.errors import ApiError

METHODS = ("GET", "POST")
# With what the official JavaScript client sends of itself.
HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "X-Request-Id",
    "OpenAI-Organization",
    "OpenAI-Project",
    *(
        f"X-Stainless-{what}"
        for what in (
            "Arch",
            "Helper-Method",
            "Lang",
            "OS",
            "Package-Version",
            "Poll-Helper",
            "Retry-Count",
            "Runtime",
            "Runtime-Version",
            "Timeout",
        )
    ),
)
EXPOSED = (
    "X-Request-Id",
    "X-Seed",
    "X-Pool",
    "X-Accelerator",
    "X-Route-Reason",
    "X-Model",
    "X-Prompt-Truncated",
    "X-Unknown-Words",
    "Retry-After",
    "X-Should-Retry",
    "Server-Timing",
)


class Cors(CORSMiddleware):
    """Starlette's, with refusals in the common envelope."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser is told before it asks."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name == "vary" or name.startswith("access-control-")
        }
        message = f"{bytes(answer.body).decode()}; see access.cors_origins in the settings"
        return ApiError(answer.status_code, message, code="cors_refused", headers=kept).response()
