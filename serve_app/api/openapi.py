"""The OpenAPI document, written from the same tables that check requests."""

from __future__ import annotations

from deployments.messages import MEDIA_TYPES
from serve_app.api.describing import (
    BOOLEAN,
    COUNT,
    MS,
    SEED,
    TEXT,
    TEXT_OR_NULL,
    Json,
    error,
    events,
    get,
    header,
    headers,
    json_content,
    obj,
    ref,
    request_id,
)
from serve_app.api.fields import Fields
from serve_app.api.front import Front
from serve_app.api.openai.describe import openai_paths, openai_schemas
from serve_app.playground.describe import PAGE_HEADERS, playground_paths

_IMAGE_TYPES = tuple(MEDIA_TYPES.values())
_ERRORS = {
    400: "A bad value, an unknown field, or fields that do not go together; see `param`. With code"
    " `content_policy_violation`: the safety checker refused the picture.",
    401: "An API key is needed and missing, or not known.",
    404: "`pool` or `lora` names nothing that is declared.",
    406: "Accept admits nothing that can be sent.",
    408: "The body did not arrive in time.",
    413: "The body is larger than allowed.",
    415: "The body is not application/json, or it is encoded.",
    429: "Too much is waiting, by prediction or in fact, too many bodies are large or slow, or"
    " the caller's own limits are reached.",
    431: "The headers are larger than allowed.",
    500: "The picture could not be painted, or an internal error.",
    503: "No pool (or not the pinned one) is available, or its replica was lost twice.",
    504: "`deadline_ms` passed or cannot be kept, or the service's own time limit passed.",
}
_EVENTS = (
    "Server-sent events with JSON data; `index` is the picture's number, from 0. `queued`: its"
    " `place` in the queue and `pool`; without a pool it waits in the ingress (and without a place"
    " for a first replica), with one in a replica's queue (no place: on its way). `step`: `step` of"
    " `steps` (told ten times a second at most). `preview`: number `preview`, taken after `step`,"
    " as `b64_json` of `media_type`. At last `done`: what the JSON answer holds; or `error`: the"
    " common envelope. Comments keep the connection alive, and tell of a picture that is begun"
    " anew since its replica was lost: its steps count from 1 again, and it comes out the same."
)


def describe(front: Front, fields: Fields) -> Json:
    """The document for this service with its limits, model and pools."""
    readiness_503 = json_content("No pool is available; `pools` says why.", ref("Unready"))
    readiness_503["headers"] = headers("Retry-After", "X-Should-Retry")
    security = _security(front)
    pools = get("pools", "Every pool", {200: json_content("The pools.", ref("Pools"))})
    pools["get"] |= {"security": security}
    pools["get"]["responses"]["401"] = error(401, _ERRORS[401])
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
                    "security": security,
                    "parameters": [request_id(), *_query_parameters(fields)],
                    "responses": _imagine_responses(has_body=False),
                },
                "post": {
                    "operationId": "imagine_post",
                    "summary": "Paint from a JSON body",
                    "security": security,
                    "parameters": [request_id()],
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": ref("ImagineRequest")}},
                    },
                    "responses": _imagine_responses(has_body=True),
                },
            },
            **openai_paths(security),
            "/health": get(
                "health", "The process lives", {200: json_content("Alive.", ref("Health"))}
            ),
            "/readiness": get(
                "readiness",
                "Whether some pool can paint now",
                {
                    200: json_content("Some pool is available.", ref("Readiness")),
                    503: readiness_503,
                },
            ),
            "/pools": pools,
            "/openapi.json": get(
                "openapi", "This document", {200: json_content("OpenAPI 3.1.", {"type": "object"})}
            ),
            "/docs": get("docs", "This document for people", {200: _docs_page()}),
            **playground_paths(),
        },
        "components": {
            "schemas": {
                "ImagineRequest": fields.schema(),
                **openai_schemas(fields),
                "ImagineAnswer": _IMAGINE_ANSWER,
                "Error": _ERROR,
                "Health": obj({"status": {"const": "ok"}}),
                "Readiness": _readiness("ready"),
                "Unready": _readiness("unavailable", _ERROR["properties"]["error"]),
                "Pools": _POOLS,
                "Pool": _POOL,
                "Measured": _MEASURED,
            },
            "headers": _HEADERS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _security(front: Front) -> list[Json]:
    """A key; where none is needed, or nothing but the key's own limits depends on it, or none."""
    return [{"key": []}] if front.settings.access.asks else [{"key": []}, {}]


def _imagine_responses(*, has_body: bool) -> Json:
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
    content = {
        **images,
        "application/json": {"schema": ref("ImagineAnswer")},
        **events(_EVENTS, "queued", "step", "preview", "done", "error"),
    }
    responses: Json = {
        "200": {
            "description": "The picture; JSON when Accept prefers it or n > 1; events with stream"
            " (of their headers X-Seed and X-Model alone).",
            "headers": headers(
                *always,
                "X-Prompt-Truncated",
                "X-Unknown-Words",
                "Cache-Control",
                "Vary",
                "X-Accel-Buffering",
                "Set-Cookie",
            ),
            "content": content,
        }
    }
    for status, about in _ERRORS.items():
        if has_body or status not in (408, 413, 415):
            responses[str(status)] = error(status, about)
    return responses


def _query_parameters(fields: Fields) -> list[Json]:
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


def _docs_page() -> Json:
    content = {"text/html": {"schema": {"type": "string"}}}
    return {
        "description": "HTML.",
        "headers": headers("Content-Security-Policy"),
        "content": content,
    }


def _readiness(status: str, error: Json | None = None) -> Json:
    pool = obj(
        {
            "accelerator": TEXT,
            "available": BOOLEAN,
            "ready_replicas": COUNT,
            "reason": TEXT_OR_NULL,
        }
    )
    properties = {
        "status": {"const": status},
        "pools": {"type": "object", "additionalProperties": pool},
        "config_problem": TEXT_OR_NULL,
    }
    return obj(properties if error is None else {"error": error, **properties})


_ERROR = obj(
    {
        "error": obj(
            {
                "message": TEXT,
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": TEXT_OR_NULL,
                "code": TEXT,
            }
        )
    }
)
_PHASES = ("queue", "encode", "denoise", "decode", "total")
_IMAGINE_ANSWER = obj(
    {
        "created": {"type": "integer", "description": "Unix time in seconds."},
        "model": TEXT,
        "data": {
            "type": "array",
            "minItems": 1,
            "items": obj(
                {
                    "b64_json": {"type": "string", "contentEncoding": "base64"},
                    "media_type": {"enum": list(_IMAGE_TYPES)},
                    "seed": SEED,
                    "pool": TEXT,
                    "accelerator": TEXT,
                    "route_reason": {"enum": ["policy", "sticky", "pinned", "retry", "probe"]},
                    "prompt_truncated": BOOLEAN,
                    "unknown_words": {"type": "array", "items": TEXT},
                    "timings": {
                        **obj(dict.fromkeys(_PHASES, MS)),
                        "description": "Milliseconds in the replica.",
                    },
                }
            ),
        },
    }
)
_MEASURED = obj(
    {
        "device": TEXT,
        "dtype": TEXT,
        "max_rows": {"type": "integer", "minimum": 1},
        "graphs": {**TEXT, "description": "Which compiled graphs run, if any."},
        "startup_s": {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": 0},
            "description": "Seconds of the replica's start by stage: import, download, load,"
            " artifact, compile, warm_up.",
        },
        "step_cost_ms": {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": 0},
            "description": "Milliseconds of one denoising step by rows in the batch, at the"
            " default size; measured when the replica started.",
        },
        "sizes": {
            "type": ["array", "null"],
            "items": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1},
                "minItems": 2,
                "maxItems": 2,
            },
            "description": "The only width and height pairs that the pool paints; null: any.",
        },
    }
)
_NUMBER = {"type": "number", "minimum": 0}
_NUMBER_OR_NULL = {"type": ["number", "null"], "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_COUNTS = {"type": "object", "additionalProperties": COUNT}


def _or_null(schema: Json) -> Json:
    return {"oneOf": [{"type": "null"}, schema]}


_POOL = obj(
    {
        "name": TEXT,
        "accelerator": TEXT,
        "framework": {"enum": ["cpu", "cuda", "neuron", "emulated"]},
        "emulated": BOOLEAN,
        "weight": _NUMBER,
        "price_per_hour": {**_NUMBER_OR_NULL, "description": "US dollars for one replica."},
        "profile": {
            **_or_null(obj({"latency_s": _NUMBER, "images_per_minute": _NUMBER})),
            "description": "What one replica does with the default request within the objective.",
        },
        "cost_per_1000": {**_NUMBER_OR_NULL, "description": "US dollars at the full rate."},
        "max_replicas": COUNT,
        "loras": {"type": "array", "items": TEXT, "description": "LoRA adapters it has."},
        "lora_fused": {**BOOLEAN, "description": "Its one adapter is in its every picture."},
        "share": {**_or_null(_SHARE), "description": "Planned; null where the policy has none."},
        "traffic_share": {**_SHARE, "description": "Of the pictures of the last minute."},
        "available": BOOLEAN,
        "reason": TEXT_OR_NULL,
        "breaker": {"enum": ["closed", "open", "half_open"]},
        "ready_replicas": COUNT,
        "target_replicas": COUNT,
        "updating_replicas": COUNT,
        "starting_replicas": COUNT,
        "draining_replicas": COUNT,
        "status": TEXT,
        "latency_s": {
            **_or_null(obj({"p50": _NUMBER, "p95": _NUMBER, "p99": _NUMBER})),
            "description": "Seconds from send to answer, over the last minute.",
        },
        "images_per_minute": _NUMBER,
        "queue": obj(
            {
                "requests": COUNT,
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
        "retries": {**COUNT, "description": "Requests sent here after failing elsewhere."},
        "measured": _or_null(ref("Measured")),
        "autoscaling": _or_null(
            obj(
                {
                    "target": COUNT,
                    "reason": TEXT,
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
_POOLS = obj(
    {
        "model": TEXT,
        "policy": TEXT,
        "slo_s": _NUMBER,
        "ingress_replicas": COUNT,
        "waiting_turns": COUNT,
        "waiting_for_capacity": COUNT,
        "autoscaling": obj(
            {
                "decided_at": _NUMBER_OR_NULL,
                "faults": COUNT,
                "required_row_steps_per_s": _NUMBER_OR_NULL,
            }
        ),
        "refusals": _COUNTS,
        "config_problem": TEXT_OR_NULL,
        "pools": {"type": "array", "items": ref("Pool")},
    }
)
_HEADERS = {
    "X-Request-Id": header("The request's id, for logs."),
    "X-Seed": header("The seed used; the first of several.", pattern="^[0-9]+$"),
    "X-Pool": header("The pool that painted; several are separated by commas."),
    "X-Accelerator": header("That pool's accelerator."),
    "X-Route-Reason": header(
        "Why that pool: 'policy', 'sticky', 'pinned', 'retry' (after another failed) or 'probe'."
    ),
    "Set-Cookie": header("The pool to stick to, where stickiness is on."),
    "X-Model": header("Model name and revision."),
    "Server-Timing": header(
        "Milliseconds: queue, encode, denoise, decode in the replica; total in the service."
    ),
    "X-Prompt-Truncated": header("'true' when the prompt was cut.", enum=["true"]),
    "X-Unknown-Words": header(
        "Words the model does not know, percent-encoded, separated by commas."
    ),
    "X-Accel-Buffering": header("no: a stream's events are not to be held back.", enum=["no"]),
    "X-Should-Retry": header("Whether trying again makes sense.", enum=["true", "false"]),
    "Retry-After": header("Seconds.", pattern="^[0-9]+$"),
    "Connection": header("close: what is left of the request is not read."),
    "WWW-Authenticate": header("How to send a key."),
    "Cache-Control": header("no-store for pictures."),
    **PAGE_HEADERS,
    "Vary": header("Accept"),
}
