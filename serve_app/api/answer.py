"""From painted pictures to the HTTP answer and its headers."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from deployments.messages import Timings
from deployments.model_info import ModelInfo
from serve_app.routing.outcome import Painted

_PHASES = ("queue", "encode", "denoise", "decode")
_MAX_WORDS = 32


def image_answer(painted: Painted, model: ModelInfo, total_ms: float) -> Response:
    """The picture's bytes. ``total_ms``: the whole request as the ingress saw it."""
    return Response(
        painted.result.image,
        media_type=painted.result.media_type,
        headers=headers([painted], model, total_ms),
    )


def json_answer(painted: Sequence[Painted], model: ModelInfo, total_ms: float) -> JSONResponse:
    """All pictures as base64 in one JSON object."""
    return JSONResponse(json_body(painted, model), headers=headers(painted, model, total_ms))


def json_body(painted: Sequence[Painted], model: ModelInfo) -> dict[str, Any]:
    """All pictures as base64, and what is known of each."""
    return {
        "created": int(time.time()),
        "model": model_label(model),
        "data": [
            {
                "b64_json": as_base64(one.result.image),
                "media_type": one.result.media_type,
                "seed": one.result.seed,
                "pool": one.pool.name,
                "accelerator": one.pool.accelerator,
                "route_reason": one.reason,
                "prompt_truncated": one.result.truncated,
                "unknown_words": list(one.result.unknown_words),
                "timings": asdict(one.result.timings),
            }
            for one in painted
        ],
    }


def as_base64(data: bytes) -> str:
    """As text for JSON."""
    return base64.b64encode(data).decode("ascii")


def headers(painted: Sequence[Painted], model: ModelInfo, total_ms: float) -> dict[str, str]:
    """The contract's headers; with several pictures the first seed and every pool."""
    results = [one.result for one in painted]
    found = {
        "X-Seed": str(results[0].seed),
        "X-Pool": ", ".join(_unique(one.pool.name for one in painted)),
        "X-Accelerator": ", ".join(_unique(_ascii(one.pool.accelerator) for one in painted)),
        "X-Route-Reason": ", ".join(_unique(one.reason for one in painted)),
        "X-Model": _ascii(model_label(model)),
        "Server-Timing": server_timing([result.timings for result in results], total_ms),
        "Cache-Control": "no-store",
        "Vary": "Accept",
    }
    if any(result.truncated for result in results):
        found["X-Prompt-Truncated"] = "true"
    words = _unique(word for result in results for word in result.unknown_words)
    if words:
        # Percent-encoded UTF-8, as header values are Latin-1; a word may hold anything.
        found["X-Unknown-Words"] = ",".join(quote(word[:64], safe="") for word in words)
    return found


def server_timing(timings: Sequence[Timings], total_ms: float) -> str:
    """``queue;dur=1.2, ...`` in milliseconds; the slowest picture of each phase."""
    phases = [f"{name};dur={max(getattr(t, name) for t in timings):.1f}" for name in _PHASES]
    return ", ".join([*phases, f"total;dur={total_ms:.1f}"])


def model_label(model: ModelInfo) -> str:
    """``name@revision``."""
    return f"{model.name}@{model.revision}" if model.revision else model.name


def _ascii(text: str) -> str:
    return quote(text, safe="/@:._- +(),")


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))[:_MAX_WORDS]
