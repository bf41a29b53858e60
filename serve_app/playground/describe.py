"""The page in the OpenAPI document."""

from __future__ import annotations

from serve_app.api.describing import Json, error, get, header, headers

PAGE_HEADERS = {
    "Content-Security-Policy": header("Nothing from elsewhere; of the page, nothing inline."),
    "Cross-Origin-Opener-Policy": header("same-origin"),
    "Cross-Origin-Resource-Policy": header("same-origin"),
    "ETag": header("Of the file's bytes."),
    "Permissions-Policy": header("What the page has no use for."),
    "Referrer-Policy": header("no-referrer"),
    "X-Content-Type-Options": header("nosniff"),
}
_SENT = ("Cache-Control", *PAGE_HEADERS)
_TYPES = ("text/css", "text/javascript", "image/svg+xml")


def playground_paths() -> Json:
    """The paths."""
    return {
        "/": get("playground", "A page to try it on", {200: _page(), 304: _held()}),
        "/playground/{version}/{name}": _file(),
    }


def _page() -> Json:
    content = {"text/html": {"schema": {"type": "string"}}}
    return {"description": "HTML.", "headers": headers(*_SENT), "content": content}


def _held() -> Json:
    about = "As the client has it, by If-None-Match."
    return {"description": about, "headers": headers(*_SENT)}


def _file() -> Json:
    file = {
        "description": "The file; of the version that is there, if it is not this.",
        "headers": headers(*_SENT),
        "content": {media: {"schema": {"type": "string"}} for media in _TYPES},
    }
    path = get("playground_file", "A file of the page", {200: file, 304: _held()})
    path["get"]["responses"]["404"] = error(404, "No such file.")
    path["get"]["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("version", "name")
    ]
    return path
