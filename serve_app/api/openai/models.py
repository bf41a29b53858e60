"""``GET /v1/models`` and ``GET /v1/models/{id}``: the one model served here."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from serve_app.api.front import Front
from serve_app.api.openai.fields import unknown_model


class Models:
    """Answers both routes."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def all(self, request: Request) -> JSONResponse:
        """The list."""
        return JSONResponse({"object": "list", "data": [self._describe()]})

    async def one(self, request: Request) -> JSONResponse:
        """One model.

        Raises:
            ApiError: 404 for any other name.
        """
        name: str = request.path_params["model"]
        if name != self._front.model.name:
            raise unknown_model(name, self._front.model.name)
        return JSONResponse(self._describe())

    def _describe(self) -> dict[str, Any]:
        # A model's files do not say when they were made; the clients' types want a number.
        return {
            "id": self._front.model.name,
            "object": "model",
            "created": 0,
            "owned_by": "imagine",
            "revision": self._front.model.revision,
        }
