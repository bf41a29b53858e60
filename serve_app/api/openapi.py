"""The OpenAPI document, written from the same tables that check requests."""

from __future__ import annotations

from typing import Any

from deployments.messages import MEDIA_TYPES
from serve_app.api.fields import Fields
from serve_app.api.front import Front
from serve_app.api.middleware import REQUEST_ID_PATTERN

_Json = dict[str, Any]
_IMAGE_TYPES = tuple(MEDIA_TYPES.values())
_ERRORS = {
    400: "A bad value, an unknown field, or fields that do not go together; see `param`.",
    404: "`pool` names no declared pool.",
    406: "Accept admits nothing that can be sent.",
    408: "The body did not arrive in time.",
    413: "The body is larger than allowed.",
    415: "The body is not application/json, or it is encoded.",
    429: "Too much is waiting, by prediction or in fact, or too many large bodies are being read.",
    500: "The picture could not be painted, or an internal error.",
    503: "No pool (or not the pinned one) is available, or its replica was lost twice.",
    504: "`deadline_ms` passed or cannot be kept, or the service's own time limit passed.",
}
_RETRYABLE = (429, 503, 504)


def describe(front: Front, fields: Fields) -> _Json:
    """The document for this service with its limits, model and pools."""
    readiness_503 = _json("No pool is available; `pools` says why.", _ref("Unready"))
    readiness_503["headers"] = _headers("Retry-After")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Images on any accelerator",
            "version": "1",
            "description": f"Text to image and image to image with {front.model.name}.",
        },
        "paths": {
            "/imagine": {
                "get": {
                    "operationId": "imagine_get",
                    "summary": "Paint from a query",
                    "parameters": [_request_id(), *_query_parameters(fields)],
                    "responses": _imagine_responses(has_body=False),
                },
                "post": {
                    "operationId": "imagine_post",
                    "summary": "Paint from a JSON body",
                    "parameters": [_request_id()],
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": _ref("ImagineRequest")}},
                    },
                    "responses": _imagine_responses(has_body=True),
                },
            },
            "/health": _get("health", "The process lives", {200: _json("Alive.", _ref("Health"))}),
            "/readiness": _get(
                "readiness",
                "Whether some pool can paint now",
                {200: _json("Some pool is available.", _ref("Readiness")), 503: readiness_503},
            ),
            "/pools": _get("pools", "Every pool", {200: _json("The pools.", _ref("Pools"))}),
            "/openapi.json": _get(
                "openapi", "This document", {200: _json("OpenAPI 3.1.", {"type": "object"})}
            ),
            "/docs": _get("docs", "This document for people", {200: _docs_page()}),
        },
        "components": {
            "schemas": {
                "ImagineRequest": fields.schema(),
                "ImagineAnswer": _IMAGINE_ANSWER,
                "Error": _ERROR,
                "Health": _object({"status": {"const": "ok"}}),
                "Readiness": _readiness("ready"),
                "Unready": _readiness("unavailable", _ERROR["properties"]["error"]),
                "Pools": _POOLS,
                "Pool": _POOL,
                "Measured": _MEASURED,
            },
            "headers": _HEADERS,
        },
    }


def _imagine_responses(*, has_body: bool) -> _Json:
    always = (
        "X-Request-Id",
        "X-Seed",
        "X-Pool",
        "X-Accelerator",
        "X-Route-Reason",
        "X-Model",
        "Server-Timing",
    )
    images = {media: {"schema": {"type": "string", "format": "binary"}} for media in _IMAGE_TYPES}
    content = {**images, "application/json": {"schema": _ref("ImagineAnswer")}}
    responses: _Json = {
        "200": {
            "description": "The picture; JSON when Accept prefers it or n > 1.",
            "headers": _headers(
                *always,
                "X-Prompt-Truncated",
                "X-Unknown-Words",
                "Cache-Control",
                "Vary",
                "Set-Cookie",
            ),
            "content": content,
        }
    }
    for status, about in _ERRORS.items():
        if has_body or status not in (408, 413, 415):
            responses[str(status)] = _error(status, about)
    return responses


def _query_parameters(fields: Fields) -> list[_Json]:
    return [
        {
            "name": field.name,
            "in": "query",
            "required": field.required,
            "description": field.about,
            "schema": {k: v for k, v in field.schema().items() if k != "description"},
        }
        for field in fields.by_name.values()
        if field.in_query
    ]


def _request_id() -> _Json:
    return {
        "name": "X-Request-Id",
        "in": "header",
        "required": False,
        "description": "Echoed if it matches the pattern; replaced otherwise.",
        "schema": {"type": "string", "pattern": REQUEST_ID_PATTERN},
    }


def _get(name: str, summary: str, responses: dict[int, _Json]) -> _Json:
    for response in responses.values():
        response.setdefault("headers", {}).update(_headers("X-Request-Id"))
    by_status = {str(status): response for status, response in responses.items()}
    by_status["500"] = _error(500, "An internal error.")
    return {"get": {"operationId": name, "summary": summary, "responses": by_status}}


def _error(status: int, about: str) -> _Json:
    names = ("X-Request-Id", "Retry-After") if status in _RETRYABLE else ("X-Request-Id",)
    return {**_json(about, _ref("Error")), "headers": _headers(*names)}


def _docs_page() -> _Json:
    return {"description": "HTML.", "content": {"text/html": {"schema": {"type": "string"}}}}


def _json(about: str, schema: _Json) -> _Json:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _headers(*names: str) -> _Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _ref(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: _Json) -> _Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _header(about: str, **schema: Any) -> _Json:
    return {"description": about, "schema": {"type": "string", **schema}}


def _readiness(status: str, error: _Json | None = None) -> _Json:
    pool = _object(
        {
            "accelerator": _TEXT,
            "available": _BOOLEAN,
            "ready_replicas": _COUNT,
            "reason": _TEXT_OR_NULL,
        }
    )
    properties = {
        "status": {"const": status},
        "pools": {"type": "object", "additionalProperties": pool},
        "config_problem": _TEXT_OR_NULL,
    }
    return _object(properties if error is None else {"error": error, **properties})


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_BOOLEAN = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_SEED = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_MS = {"type": "number", "minimum": 0}

_ERROR = _object(
    {
        "error": _object(
            {
                "message": _TEXT,
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": _TEXT_OR_NULL,
                "code": _TEXT,
            }
        )
    }
)
_PHASES = ("queue", "encode", "denoise", "decode", "total")
_IMAGINE_ANSWER = _object(
    {
        "created": {"type": "integer", "description": "Unix time in seconds."},
        "model": _TEXT,
        "data": {
            "type": "array",
            "minItems": 1,
            "items": _object(
                {
                    "b64_json": {"type": "string", "contentEncoding": "base64"},
                    "media_type": {"enum": list(_IMAGE_TYPES)},
                    "seed": _SEED,
                    "pool": _TEXT,
                    "accelerator": _TEXT,
                    "route_reason": {"enum": ["policy", "sticky", "pinned", "retry", "probe"]},
                    "prompt_truncated": _BOOLEAN,
                    "unknown_words": {"type": "array", "items": _TEXT},
                    "timings": {
                        **_object(dict.fromkeys(_PHASES, _MS)),
                        "description": "Milliseconds in the replica.",
                    },
                }
            ),
        },
    }
)
_MEASURED = _object(
    {
        "device": _TEXT,
        "dtype": _TEXT,
        "max_rows": {"type": "integer", "minimum": 1},
        "step_cost_ms": {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": 0},
            "description": "Milliseconds of one denoising step by rows in the batch, at the"
            " default size; measured when the replica started.",
        },
    }
)
_NUMBER = {"type": "number", "minimum": 0}
_NUMBER_OR_NULL = {"type": ["number", "null"], "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_COUNTS = {"type": "object", "additionalProperties": _COUNT}


def _or_null(schema: _Json) -> _Json:
    return {"oneOf": [{"type": "null"}, schema]}


_POOL = _object(
    {
        "name": _TEXT,
        "accelerator": _TEXT,
        "framework": {"enum": ["cpu", "cuda", "neuron", "emulated"]},
        "emulated": _BOOLEAN,
        "weight": _NUMBER,
        "price_per_hour": {**_NUMBER_OR_NULL, "description": "US dollars for one replica."},
        "profile": {
            **_or_null(_object({"latency_s": _NUMBER, "images_per_minute": _NUMBER})),
            "description": "What one replica does with the default request within the objective.",
        },
        "cost_per_1000": {**_NUMBER_OR_NULL, "description": "US dollars at the full rate."},
        "max_replicas": _COUNT,
        "loras": {"type": "array", "items": _TEXT, "description": "LoRA adapters it has."},
        "lora_fused": {**_BOOLEAN, "description": "Its one adapter is in its every picture."},
        "share": {**_or_null(_SHARE), "description": "Planned; null where the policy has none."},
        "traffic_share": {**_SHARE, "description": "Of the pictures of the last minute."},
        "available": _BOOLEAN,
        "reason": _TEXT_OR_NULL,
        "breaker": {"enum": ["closed", "open", "half_open"]},
        "ready_replicas": _COUNT,
        "target_replicas": _COUNT,
        "updating_replicas": _COUNT,
        "starting_replicas": _COUNT,
        "draining_replicas": _COUNT,
        "status": _TEXT,
        "latency_s": {
            **_or_null(_object({"p50": _NUMBER, "p95": _NUMBER, "p99": _NUMBER})),
            "description": "Seconds from send to answer, over the last minute.",
        },
        "images_per_minute": _NUMBER,
        "queue": _object(
            {
                "requests": _COUNT,
                "rows": _NUMBER,
                "predicted_wait_s": _NUMBER_OR_NULL,
                "predicted_s": _NUMBER_OR_NULL,
                "correction": {
                    **_NUMBER,
                    "description": "How many times longer than predicted pictures take.",
                },
            }
        ),
        "decisions": {**_COUNTS, "description": "Requests sent here, by reason."},
        "failures": {**_COUNTS, "description": "Requests lost or failed here, by cause."},
        "retries": {**_COUNT, "description": "Requests sent here after failing elsewhere."},
        "measured": _or_null(_ref("Measured")),
        "autoscaling": _or_null(
            _object(
                {
                    "target": _COUNT,
                    "reason": _TEXT,
                    "changed_at": {**_NUMBER_OR_NULL, "description": "Unix time in seconds."},
                    "supply": {
                        "type": ["string", "null"],
                        "enum": ["open", "short", "probing", None],
                        "description": "Of an elastic pool: whether its hardware is to be had.",
                    },
                    "replicas": {
                        "type": ["object", "null"],
                        "additionalProperties": {"type": "number"},
                        "description": "What its replicas recorded, averaged.",
                    },
                }
            )
        ),
    }
)
_POOLS = _object(
    {
        "model": _TEXT,
        "policy": _TEXT,
        "slo_s": _NUMBER,
        "ingress_replicas": _COUNT,
        "waiting_turns": _COUNT,
        "waiting_for_capacity": _COUNT,
        "autoscaling": _object(
            {
                "decided_at": _NUMBER_OR_NULL,
                "faults": _COUNT,
                "required_row_steps_per_s": _NUMBER_OR_NULL,
            }
        ),
        "refusals": _COUNTS,
        "config_problem": _TEXT_OR_NULL,
        "pools": {"type": "array", "items": _ref("Pool")},
    }
)
_HEADERS = {
    "X-Request-Id": _header("The request's id, for logs."),
    "X-Seed": _header("The seed used; the first of several.", pattern="^[0-9]+$"),
    "X-Pool": _header("The pool that painted; several are separated by commas."),
    "X-Accelerator": _header("That pool's accelerator."),
    "X-Route-Reason": _header(
        "Why that pool: 'policy', 'sticky', 'pinned', 'retry' (after another failed) or 'probe'."
    ),
    "Set-Cookie": _header("The pool to stick to, where stickiness is on."),
    "X-Model": _header("Model name and revision."),
    "Server-Timing": _header(
        "Milliseconds: queue, encode, denoise, decode in the replica; total in the service."
    ),
    "X-Prompt-Truncated": _header("'true' when the prompt was cut.", enum=["true"]),
    "X-Unknown-Words": _header(
        "Words the model does not know, percent-encoded, separated by commas."
    ),
    "Retry-After": _header("Seconds.", pattern="^[0-9]+$"),
    "Cache-Control": _header("no-store"),
    "Vary": _header("Accept"),
}
