"""``GET /openapi.json`` and ``GET /docs``: one document, for programs and for people."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse

from serve_app.api.fields import Fields
from serve_app.api.front import Front
from serve_app.api.openapi import describe

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border:1px solid #ccc;padding:.3rem .5rem;"
    "text-align:left;vertical-align:top}code{background:#f3f3f3;padding:0 .2rem}"
)
# Nothing but that style: no script, nothing from elsewhere, in no frame.
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
# Schemas of request bodies, and where they are sent.
_FORMS = {
    "ImagineRequest": "/imagine",
    "ImageGenerationRequest": "/v1/images/generations",
    "ImageEditRequest": "/v1/images/edits",
}


class Docs:
    """Serves the OpenAPI document and a page drawn from it (no scripts, works offline)."""

    def __init__(self, front: Front) -> None:
        self._document = describe(front, Fields.of(front.settings, front.model))
        self._page = _draw(self._document)

    async def openapi(self, request: Request) -> JSONResponse:
        """The document."""
        return JSONResponse(self._document)

    async def page(self, request: Request) -> HTMLResponse:
        """The page."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": _POLICY})


def _draw(document: dict[str, Any]) -> str:
    parts = [
        f"<!doctype html><meta charset=utf-8><title>API</title><style>{_STYLE}</style>",
        f"<h1>{escape(document['info']['title'])}</h1>",
        f"<p>{escape(document['info']['description'])}</p>",
        "<p>For programs: <a href='openapi.json'>openapi.json</a></p>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation['summary'])}</p>")
            parts.append(_responses(operation["responses"]))
    for schema, route in _FORMS.items():
        parts.append(f"<h2>Fields of {route}</h2>")
        parts.append(_fields(document["components"]["schemas"][schema]["properties"]))
    return "\n".join(parts)


def _responses(responses: dict[str, Any]) -> str:
    rows = (
        f"<tr><td>{status}<td>{escape(response['description'])}"
        f"<td>{escape(', '.join(response.get('content', {})))}"
        for status, response in responses.items()
    )
    return f"<table><tr><th>Status<th>When<th>Type{''.join(rows)}</table>"


def _fields(properties: dict[str, Any]) -> str:
    rows = []
    for name, schema in properties.items():
        facts = [
            f"{key} {value}"
            for key, value in schema.items()
            if key not in ("description", "type", "default")
        ]
        rows.append(
            f"<tr><td><code>{escape(name)}</code><td>{escape(str(schema.get('default', '')))}"
            f"<td>{escape('; '.join(facts))}<td>{escape(schema['description'])}"
        )
    return f"<table><tr><th>Field<th>Default<th>Allowed<th>What{''.join(rows)}</table>"
