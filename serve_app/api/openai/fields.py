"""The fields of the images API: what they are, and the fields of ``/imagine`` they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serve_app.api.errors import ApiError, bad_value
from serve_app.api.fields import Field, Fields
from serve_app.api.quoting import shorten
from serve_app.validation import did_you_mean

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.ASCII)
_LONGEST_NAME = 256
_NO_OTHER = "There is no other."
# Ours, by the same names as in /imagine.
_EXTENSIONS = (
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "scheduler",
    "lora",
    "pool",
    "deadline_ms",
)
_SHARED = ("prompt", "n", "stream", "partial_images")
_STRENGTH = (
    "How much of image is repainted; when absent 0.8, or 1 for a single step or with a mask."
)
_FORMAT = "Encoding of the pictures."


def generation_fields(fields: Fields) -> Fields:
    """Those of ``POST /v1/images/generations``."""
    table = _own(fields)
    table += [fields.by_name[name] for name in (*_SHARED, *_EXTENSIONS)]
    table.append(replace(fields.by_name["output_format"], default="png", about=_FORMAT))
    return Fields({field.name: field for field in table}, fields.model)


def edit_fields(fields: Fields) -> Fields:
    """The text parts of ``POST /v1/images/edits``."""
    known = generation_fields(fields).by_name
    strength = replace(fields.by_name["strength"], about=_STRENGTH, in_query=True)
    return Fields({**known, "strength": strength}, fields.model)


def translate(values: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Checked values as ``/imagine`` has them.

    Args:
        values: by this API's names, defaults filled in.
        fields: of ``/imagine``.

    Raises:
        ApiError: 404 for an unknown ``model``, 400 for a bad ``size``, for ``output_compression``
            of a PNG, and for several pictures in one stream.
    """
    _check_model(values.get("model"), fields)
    if values["stream"] and values["n"] > 1:
        raise bad_value("n", f"n: got {values['n']}; allowed with stream: 1")
    width, height = _read_size(values["size"], fields)
    same = (*_SHARED, *_EXTENSIONS, "output_format", "strength")
    found = {name: values[name] for name in same if name in values}
    found |= {"width": width, "height": height}
    if (compression := values.get("output_compression")) is not None:
        if values["output_format"] == "png":
            raise bad_value(
                "output_compression", "output_compression: only for output_format jpeg or webp"
            )
        found["quality"] = max(1, compression)
    return found


def _check_model(name: str | None, fields: Fields) -> None:
    if name is not None and name != fields.model.name:
        raise unknown_model(name, fields.model.name)


def unknown_model(name: str, known: str) -> ApiError:
    """A 404 for a model that is not served here."""
    return ApiError(
        404,
        f"model: no model {shorten(name)}; served here: {known}{did_you_mean(name[:100], [known])}",
        code="model_not_found",
        param="model",
    )


def _read_size(size: str, fields: Fields) -> tuple[int, int]:
    """Width and height in pixels."""
    width, height = fields.by_name["width"], fields.by_name["height"]
    if size == "auto":
        return fields.model.defaults.width, fields.model.defaults.height
    match = _SIZE.fullmatch(size)
    if match is None:
        raise bad_value("size", f"size: got {shorten(size)}; allowed: auto, or as 512x512")
    try:
        return width.check(int(match[1])), height.check(int(match[2]))
    except ApiError as error:
        raise bad_value("size", f"size: {error.message}") from None


def _own(fields: Fields) -> list[Field]:
    """Those that ``/imagine`` does not have."""
    return [
        Field(
            name="model",
            kind="string",
            about=f"The model served here, {fields.model.name}.",
            low=1,
            high=_LONGEST_NAME,
        ),
        Field(
            name="size",
            kind="string",
            about="WIDTHxHEIGHT in pixels, or auto for the model's own; bounds as in /imagine.",
            low=1,
            high=16,
            default="auto",
        ),
        Field(
            name="response_format",
            kind="string",
            about=f"Pictures come as base64; nothing is kept here to link to. {_NO_OTHER}",
            choices=("b64_json",),
            default="b64_json",
        ),
        Field(
            name="output_compression",
            kind="integer",
            about="Quality of JPEG and WebP, 100 the best; not for PNG.",
            low=0,
            high=100,
        ),
        Field(
            name="quality",
            kind="string",
            about="Accepted and not used: num_inference_steps decides.",
            choices=("auto", "standard", "hd", "low", "medium", "high", "xhigh", "max"),
            default="auto",
        ),
        Field(
            name="style",
            kind="string",
            about="Accepted and not used: the prompt decides.",
            choices=("vivid", "natural"),
        ),
        Field(
            name="background",
            kind="string",
            about=f"Pictures are opaque. {_NO_OTHER}",
            choices=("auto", "opaque"),
            default="auto",
        ),
        Field(
            name="moderation",
            kind="string",
            about="Accepted and not used.",
            choices=("auto", "low"),
            default="auto",
        ),
        Field(
            name="user",
            kind="string",
            about="Accepted and not used.",
            low=0,
            high=_LONGEST_NAME,
        ),
        Field(
            name="safety_identifier",
            kind="string",
            about="Accepted and not used.",
            low=0,
            high=_LONGEST_NAME,
        ),
    ]
