"""The images API in the OpenAPI document."""

from __future__ import annotations

from typing import get_args

from deployments.messages import OutputFormat
from serve_app.api.describing import (
    BOOLEAN,
    COUNT,
    SEED,
    TEXT,
    Json,
    error,
    events,
    get,
    headers,
    json_content,
    obj,
    ref,
    request_id,
)
from serve_app.api.fields import Fields
from serve_app.api.openai.fields import edit_fields, generation_fields
from serve_app.api.openai.ticket import ATTEMPT_HEADER, KEY_HEADER

_ERRORS = {
    400: "A bad value, an unknown field, fields that do not go together, or an Idempotency-Key that"
    " was used for a request with other contents; see `param`.",
    401: "An API key is needed and missing, or not known.",
    404: "`model`, `pool` or `lora` names nothing that is here.",
    408: "The body did not arrive in time.",
    413: "The body is larger than allowed.",
    415: "The body is of another type, or it is encoded.",
    429: "Too much is waiting, by prediction or in fact, or too many bodies are large or slow.",
    431: "The headers are larger than allowed.",
    500: "The picture could not be painted, or an internal error.",
    503: "No pool (or not the pinned one) is available, or its replica was lost twice.",
    504: "`deadline_ms` passed or cannot be kept, or the service's own time limit passed.",
}
_EVENTS = (
    "Server-sent events with JSON data: up to `partial_images` times `{kind}.partial_image`, then"
    " `{kind}.completed`; or `error` with the common envelope. Comments tell of steps, keep the"
    " connection alive, and say when a picture is begun anew since its replica was lost."
)
_FILE = {"type": "string", "format": "binary"}


def openai_paths(security: list[Json]) -> Json:
    """The paths; ``security``: who may ask."""
    paths = {
        "/v1/images/generations": {
            "post": _painting(
                "images_generations",
                "Paint from a text, as OpenAI's clients ask",
                {"application/json": {"schema": ref("ImageGenerationRequest")}},
                "image_generation",
            )
        },
        "/v1/images/edits": {
            "post": _painting(
                "images_edits",
                "Paint from a picture and a text, as OpenAI's clients ask",
                {"multipart/form-data": {"schema": ref("ImageEditRequest")}},
                "image_edit",
            )
        },
        "/v1/models": get(
            "models", "The model served here", {200: json_content("A list of one.", ref("Models"))}
        ),
        "/v1/models/{model}": _model(),
    }
    for path in paths.values():
        for asked in path.values():
            asked["security"] = security
            asked["responses"]["401"] = error(401, _ERRORS[401])
    return paths


def openai_schemas(fields: Fields) -> Json:
    """The schemas; ``fields`` are those of ``/imagine``."""
    edit = edit_fields(fields).schema()
    # What goes together is in the words: JSON Schema's conditions do not judge files.
    edit.pop("allOf")
    for schema in edit["properties"].values():
        # Form parts are text: there is no null.
        if isinstance(schema["type"], list):
            schema["type"] = schema["type"][0]
        if "enum" in schema:
            schema["enum"] = [choice for choice in schema["enum"] if choice is not None]
    edit["properties"] |= {
        "image": {
            **_FILE,
            "description": "PNG, JPEG or WebP; or under the name image[], as a list of one.",
        },
        "mask": {
            **_FILE,
            "description": "Transparent where image is to be repainted; of its size, or of size.",
        },
    }
    edit["required"] = ["image", "prompt"]
    return {
        "ImageGenerationRequest": generation_fields(fields).schema(),
        "ImageEditRequest": edit,
        "ImagesAnswer": _ANSWER,
        "Models": obj({"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}}),
        "Model": _MODEL,
    }


def _painting(name: str, summary: str, content: Json, kind: str) -> Json:
    names = (f"{kind}.partial_image", f"{kind}.completed", "error")
    answer = {
        "description": "The pictures; events with stream (of their headers X-Seed and X-Model"
        " alone).",
        "headers": headers(
            "X-Request-Id",
            "X-Seed",
            "X-Pool",
            "X-Accelerator",
            "X-Route-Reason",
            "X-Model",
            "Server-Timing",
            "X-Prompt-Truncated",
            "X-Unknown-Words",
            "Cache-Control",
            "Vary",
            "X-Accel-Buffering",
            "Set-Cookie",
        ),
        "content": {
            "application/json": {"schema": ref("ImagesAnswer")},
            **events(_EVENTS.format(kind=kind), *names),
        },
    }
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [request_id(), *_ONCE],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": answer,
            **{str(status): error(status, about) for status, about in _ERRORS.items()},
        },
    }


def _model() -> Json:
    path = get(
        "model",
        "One model",
        {200: json_content("The model.", ref("Model")), 404: error(404, "There is no such model.")},
    )
    path["get"]["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    return path


_ONCE: list[Json] = [
    {
        "name": KEY_HEADER,
        "in": "header",
        "required": False,
        "description": "Calls with one key are painted once: within ten minutes, by one replica of"
        " the ingress. The seed drawn for them is the same everywhere.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    {
        "name": ATTEMPT_HEADER,
        "in": "header",
        "required": False,
        "description": "Set by the official clients. A retry of a call that is under way or done is"
        " not painted again.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,3}$"},
    },
]
_ANSWER = obj(
    {
        "created": {"type": "integer", "description": "Unix time in seconds."},
        "data": {
            "type": "array",
            "minItems": 1,
            "items": obj(
                {
                    "b64_json": {"type": "string", "contentEncoding": "base64"},
                    "seed": SEED,
                    "pool": TEXT,
                    "accelerator": TEXT,
                    "prompt_truncated": BOOLEAN,
                    "unknown_words": {"type": "array", "items": TEXT},
                }
            ),
        },
        "background": {"const": "opaque"},
        "output_format": {"enum": list(get_args(OutputFormat))},
        "size": TEXT,
        "usage": {
            **obj(
                {
                    "input_tokens": COUNT,
                    "input_tokens_details": obj({"image_tokens": COUNT, "text_tokens": COUNT}),
                    "output_tokens": COUNT,
                    "total_tokens": COUNT,
                }
            ),
            "description": "Zeros; nothing is counted in tokens here.",
        },
    }
)
_MODEL = obj(
    {
        "id": TEXT,
        "object": {"const": "model"},
        "created": {"type": "integer", "description": "0: a model's files do not say."},
        "owned_by": TEXT,
        "revision": TEXT,
    }
)
