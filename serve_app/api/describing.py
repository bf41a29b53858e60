"""Small parts of an OpenAPI document."""

from __future__ import annotations

from typing import Any

from serve_app.api.middleware import REQUEST_ID_PATTERN

Json = dict[str, Any]
_RETRYABLE = (429, 503, 504)
_CLOSING = (408, 429, 431)


def request_id() -> Json:
    """The parameter that every route takes."""
    return {
        "name": "X-Request-Id",
        "in": "header",
        "required": False,
        "description": "Echoed if it matches the pattern; replaced otherwise.",
        "schema": {"type": "string", "pattern": REQUEST_ID_PATTERN},
    }


def get(name: str, summary: str, responses: dict[int, Json]) -> Json:
    """A path that is only read."""
    for response in responses.values():
        response.setdefault("headers", {}).update(headers("X-Request-Id"))
    by_status = {str(status): response for status, response in responses.items()}
    by_status["431"] = error(431, "The headers are larger than allowed.")
    by_status["500"] = error(500, "An internal error.")
    return {"get": {"operationId": name, "summary": summary, "responses": by_status}}


def error(status: int, about: str) -> Json:
    """An error's response."""
    names = ["X-Request-Id", "X-Should-Retry"]
    names += ["Retry-After"] if status in _RETRYABLE else []
    names += ["Connection"] if status in _CLOSING else []
    names += ["WWW-Authenticate"] if status == 401 else []
    return {**json_content(about, ref("Error")), "headers": headers(*names)}


def json_content(about: str, schema: Json) -> Json:
    """A response of JSON."""
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def headers(*names: str) -> Json:
    """Response headers by their names in the components."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def events(about: str, *names: str) -> Json:
    """The content of a stream of events, by the schema of one."""
    data = {"type": "string", "contentMediaType": "application/json"}
    one = {**obj({"event": {"enum": list(names)}, "data": data}), "description": about}
    return {"text/event-stream": {"schema": one}}


def ref(name: str) -> Json:
    """A schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def obj(properties: Json) -> Json:
    """An object that has all of ``properties`` and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def header(about: str, **schema: Any) -> Json:
    """A response header of text."""
    return {"description": about, "schema": {"type": "string", **schema}}


TEXT = {"type": "string"}
TEXT_OR_NULL = {"type": ["string", "null"]}
BOOLEAN = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
SEED = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
MS = {"type": "number", "minimum": 0}
