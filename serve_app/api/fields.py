"""The fields of ``/imagine``: one table that both checks requests and writes the OpenAPI schema."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deployments.messages import OutputFormat, SchedulerName
from deployments.model_info import ModelInfo
from serve_app.api.errors import bad_value
from serve_app.api.quoting import shorten, shorten_name
from serve_app.settings import Settings
from serve_app.validation import did_you_mean

Kind = Literal["string", "integer", "number", "boolean"]
MAX_SEED = 2**32 - 1
MAX_DEADLINE_MS = 86_400_000
MAX_PREVIEWS = 3
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One request field.

    Attributes:
        name: its key.
        kind: its JSON type.
        about: one sentence for the documentation.
        low, high: bounds of a number (both included), or of a text's length in characters.
        above: a number must be greater than this.
        multiple: an integer must be a multiple of this.
        choices: the allowed texts.
        default: used when absent; ``None`` means "absent".
        required: whether it must be there.
        in_query: whether ``GET`` takes it too.
    """

    name: str
    kind: Kind
    about: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    multiple: int | None = None
    choices: tuple[str, ...] = ()
    default: str | int | float | bool | None = None
    required: bool = False
    in_query: bool = True

    def check(self, value: Any) -> Any:
        """``value`` as this field's Python type.

        Raises:
            ApiError: 400 that names this field, what it got and what is allowed.
        """
        if self.kind == "string":
            return self._check_text(value)
        if self.kind == "boolean":
            if not isinstance(value, bool):
                raise self._wrong_type(value)
            return value
        return self._check_number(value)

    def parse_query(self, text: str) -> Any:
        """The value of a query parameter, checked like ``check``."""
        if self.kind == "string":
            return self.check(text)
        if self.kind == "integer" and _INTEGER.fullmatch(text):
            return self.check(int(text))
        if self.kind == "number" and _NUMBER.fullmatch(text):
            return self.check(float(text))
        if self.kind == "boolean" and text in ("true", "false"):
            return text == "true"
        raise self._wrong_type(text)

    def schema(self) -> dict[str, Any]:
        """The field as JSON Schema (OpenAPI 3.1)."""
        schema: dict[str, Any] = {"type": self.kind, "description": self.about}
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.kind == "boolean":
            bounds = {}
        elif self.kind == "string":
            bounds = {"minLength": self.low, "maxLength": self.high}
        else:
            bounds = {"minimum": self.low, "maximum": self.high, "exclusiveMinimum": self.above}
        schema |= {key: bound for key, bound in bounds.items() if bound is not None}
        if self.multiple is not None:
            schema["multipleOf"] = self.multiple
        if self.default is not None:
            schema["default"] = self.default
        return schema

    def _check_text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._wrong_type(value)
        if self.choices:
            if value not in self.choices:
                raise bad_value(
                    self.name,
                    f"{self.name}: got {shorten(value)}; allowed: {', '.join(self.choices)}"
                    f"{did_you_mean(value[:100], list(self.choices))}",
                )
            return value
        low, high = int(self.low or 0), self.high
        if len(value) < low or (high is not None and len(value) > high):
            raise bad_value(
                self.name,
                f"{self.name}: got {len(value)} characters; allowed: {low} to {high}",
            )
        # The search takes 0.1 s for the longest image; nearly all are plain ASCII.
        plain = value.isascii() and "\0" not in value
        bad = None if plain else _UNWRITABLE.search(value)
        if bad is not None:
            what = "a NUL character" if bad[0] == "\x00" else "half of a surrogate pair"
            raise bad_value(self.name, f"{self.name}: holds {what} at position {bad.start()}")
        if self.required and not value.strip():
            raise bad_value(self.name, f"{self.name}: must not be blank")
        return value

    def _check_number(self, value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong_type(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise bad_value(self.name, f"{self.name}: must be a finite number")
        if self.kind == "integer" and value != int(value):
            raise self._wrong_type(value)
        low, high, above = self.low, self.high, self.above
        if (
            (low is not None and value < low)
            or (above is not None and value <= above)
            or (high is not None and value > high)
        ):
            floor = f"above {above:g}" if above is not None else f"{low:.15g}"
            raise bad_value(
                self.name, f"{self.name}: got {shorten(value)}; allowed: {floor} to {high:.15g}"
            )
        if self.multiple is not None and value % self.multiple:
            raise bad_value(
                self.name,
                f"{self.name}: got {value:g}; allowed: multiples of {self.multiple}",
            )
        return int(value) if self.kind == "integer" else float(value)

    def _wrong_type(self, value: Any) -> Exception:
        article = "an" if self.kind == "integer" else "a"
        return bad_value(
            self.name,
            f"{self.name}: must be {article} {self.kind}, got {shorten(value)}",
            code="invalid_type",
        )


@dataclass(frozen=True, slots=True)
class Fields:
    """All fields of ``/imagine``, by name."""

    by_name: Mapping[str, Field]
    model: ModelInfo

    @classmethod
    def of(cls, settings: Settings, model: ModelInfo) -> Fields:
        """The fields under these limits, with this model's defaults and size multiple."""
        return cls({field.name: field for field in _fields(settings, model)}, model)

    def check_body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Checked values by name, defaults filled in, absent ones left out.

        ``null`` counts as absent. A field not in the table is refused.

        Raises:
            ApiError: 400 for the first bad field.
        """
        self._refuse_unknown(body)
        given = {name: value for name, value in body.items() if value is not None}
        return self._filled({name: self.by_name[name].check(v) for name, v in given.items()})

    def check_query(self, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """As ``check_body``, from query parameters; each may be given once.

        Raises:
            ApiError: 400 for the first bad parameter.
        """
        given: dict[str, str] = {}
        for name, text in pairs:
            if name in given:
                raise bad_value(shorten_name(name), f"{shorten_name(name)}: given more than once")
            given[name] = text
        self._refuse_unknown(given)
        for name in given:
            if not self.by_name[name].in_query:
                raise bad_value(
                    name, f"{name}: not allowed in a query; send it in a JSON body with POST"
                )
        return self._filled({n: self.by_name[n].parse_query(text) for n, text in given.items()})

    def schema(self) -> dict[str, Any]:
        """The request body as JSON Schema."""
        properties = {}
        for field in self.by_name.values():
            schema = field.schema()
            if not field.required:
                schema["type"] = [schema["type"], "null"]
                if "enum" in schema:
                    schema["enum"] = [*schema["enum"], None]
            properties[field.name] = schema
        return {
            "type": "object",
            "properties": properties,
            "required": [field.name for field in self.by_name.values() if field.required],
            "allOf": self._conditions(),
            "additionalProperties": False,
        }

    def _conditions(self) -> list[dict[str, Any]]:
        """What must hold between the fields that are there."""
        # null counts as absent, so that dependentRequired would not do.
        needs_image = {"image": {"type": "string"}}
        found = [
            _if_then({name: {"type": kind}}, needs_image, required=["image"])
            for name, kind in (("strength", "number"), ("mask", "string"))
            if name in self.by_name and "image" in self.by_name
        ]
        previews = {"partial_images": {"type": "integer", "minimum": 1}}
        found.append(_if_then(previews, {"stream": {"const": True}}, required=["stream"]))
        return [*found, self._lcm_schema()]

    def _lcm_schema(self) -> dict[str, Any]:
        then = {"num_inference_steps": {"maximum": self.model.lcm_max_steps}}
        if not self.model.lcm_by_default:
            return _if_then({"scheduler": {"const": "lcm"}}, then)
        others = [name for name in get_args(SchedulerName) if name not in ("lcm", "default")]
        named = {"properties": {"scheduler": {"enum": others}}, "required": ["scheduler"]}
        return {"if": {"not": named}, "then": {"properties": then}}

    def _refuse_unknown(self, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in self.by_name:
                short = shorten_name(name)
                hint = did_you_mean(short, list(self.by_name))
                raise bad_value(
                    short,
                    f"{short}: unknown field{hint}; allowed: {', '.join(self.by_name)}",
                    code="unknown_field",
                )

    def _filled(self, values: dict[str, Any]) -> dict[str, Any]:
        for field in self.by_name.values():
            if field.name not in values:
                if field.required:
                    raise bad_value(field.name, f"{field.name}: missing", code="missing_field")
                if field.default is not None:
                    values[field.name] = field.default
        return values


def _if_then(
    given: dict[str, Any], then: dict[str, Any], required: Iterable[str] = ()
) -> dict[str, Any]:
    """JSON Schema: where all properties of ``given`` are there and match, so must ``then``."""
    return {
        "if": {"properties": given, "required": list(given)},
        "then": {"properties": then, "required": list(required)},
    }


def _fields(settings: Settings, model: ModelInfo) -> list[Field]:
    limits, defaults, multiple = settings.limits, model.defaults, model.size_multiple
    # A model's own default is allowed even where the limits are tighter.
    widths = sorted((limits.min_width, limits.max_width, defaults.width))
    heights = sorted((limits.min_height, limits.max_height, defaults.height))
    longest = limits.max_prompt_chars
    return [
        Field(
            name="prompt",
            kind="string",
            about="What to paint. Past the text encoder's window it is cut (X-Prompt-Truncated).",
            low=1,
            high=longest,
            required=True,
        ),
        Field(
            name="negative_prompt",
            kind="string",
            about="What to steer away from.",
            low=0,
            high=longest,
            default="",
        ),
        Field(
            name="width",
            kind="integer",
            about="Width in pixels.",
            low=widths[0],
            high=widths[-1],
            multiple=multiple,
            default=defaults.width,
        ),
        Field(
            name="height",
            kind="integer",
            about="Height in pixels.",
            low=heights[0],
            high=heights[-1],
            multiple=multiple,
            default=defaults.height,
        ),
        Field(
            name="num_inference_steps",
            kind="integer",
            about="Denoising steps (image-to-image runs int(steps * strength) of them); at most"
            f" {model.lcm_max_steps} with the LCM scheduler.",
            low=1,
            high=max(limits.max_steps, defaults.num_inference_steps),
            default=defaults.num_inference_steps,
        ),
        Field(
            name="guidance_scale",
            kind="number",
            about="Classifier-free guidance; at most 1 means none.",
            low=0,
            high=max(limits.max_guidance, defaults.guidance_scale),
            default=defaults.guidance_scale,
        ),
        Field(
            name="seed",
            kind="integer",
            about="Decides the picture; drawn and returned in X-Seed when absent. Picture k of n"
            " uses (seed + k) mod 2^32.",
            low=0,
            high=MAX_SEED,
        ),
        Field(
            name="scheduler",
            kind="string",
            about="Sampler; 'default' is the model's own.",
            choices=get_args(SchedulerName),
            default="default",
        ),
        Field(
            name="lora",
            kind="string",
            about="LoRA adapter to paint with; declared here: "
            f"{', '.join(settings.loras) or 'none'}.",
            low=1,
            high=63,
        ),
        Field(
            name="n",
            kind="integer",
            about="How many pictures; more than one is always answered as JSON.",
            low=1,
            high=limits.max_n,
            default=1,
        ),
        Field(
            name="image",
            kind="string",
            about="Start picture for image-to-image: PNG, JPEG or WebP as base64 or as a base64"
            " data URL. Cropped about its centre to the target's shape and resized.",
            low=1,
            high=limits.max_body_bytes,
            in_query=False,
        ),
        Field(
            name="strength",
            kind="number",
            about="How much of the start picture is repainted; needs image (default then 0.8,"
            " or 1 for a single step or with a mask).",
            above=0,
            high=1,
            in_query=False,
        ),
        Field(
            name="mask",
            kind="string",
            about="For inpainting, given as image is: white is repainted, black is kept, and"
            " transparent counts as black. Of the size of image, or width x height.",
            low=1,
            high=limits.max_body_bytes,
            in_query=False,
        ),
        Field(
            name="output_format",
            kind="string",
            about="Encoding of the picture; when absent, the first of these that Accept admits.",
            choices=get_args(OutputFormat),
        ),
        Field(
            name="stream",
            kind="boolean",
            about="Answer with server-sent events, whatever Accept says: queued, step, preview and"
            " at last done or error. Closing the connection ends the work.",
            default=False,
        ),
        Field(
            name="partial_images",
            kind="integer",
            about="Most previews to send on the way; needs stream.",
            low=0,
            high=MAX_PREVIEWS,
            default=0,
        ),
        Field(
            name="pool",
            kind="string",
            about=f"Pin one pool; declared here: {', '.join(settings.pools)}.",
            low=1,
            high=63,
        ),
        Field(
            name="deadline_ms",
            kind="integer",
            about="Milliseconds after which the answer is worthless (504).",
            low=1,
            high=MAX_DEADLINE_MS,
        ),
    ]
