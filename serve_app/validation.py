"""Settings from outside checked against their model; errors that name key, value and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)

# The type of an error whose input must not be shown.
UNSHOWN = "unshown"
# Under this key someone may have written an API key by mistake.
_MAY_HOLD_KEYS = "fairness"


class SettingsError(ValueError):
    """Settings that cannot be used; the message has one line per error."""


class Strict(BaseModel):
    """Refuses unknown keys; cannot be changed."""

    # Defaults are validated too: ``model: {}`` must meet the same rules as a spelt-out model.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def parse(model: type[_Model], raw: Any, *, what: str) -> _Model:
    """Validate ``raw`` as ``model``.

    Raises:
        SettingsError: headed by ``what``, then one line per error.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = "\n  ".join(explain(error, model))
        raise SettingsError(f"{what}:\n  {lines}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per error in ``error``: ``key: got value; allowed ...``."""
    return [_explain_one(dict(item), model) for item in error.errors(include_url=False)]


def did_you_mean(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """``" (did you mean 'x'?)"`` when a known word is close to ``word``, else ``""``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain_one(item: dict[str, Any], model: type[BaseModel]) -> str:
    loc = [str(part) for part in item["loc"] if part != "[key]"]
    key = ".".join(loc) or "(top)"
    kind, context = str(item["type"]), item.get("ctx") or {}
    if kind == "missing":
        return f"{key}: missing; it is required"
    if kind == UNSHOWN:
        return f"{key}: {item['msg']}"
    hidden = loc[:1] == [_MAY_HOLD_KEYS]
    if hidden and kind == "extra_forbidden":
        key = f"{_MAY_HOLD_KEYS}.(not shown)"
    got = "something not shown" if hidden else _short(item["input"])
    if kind == "extra_forbidden":
        names = _known_names(model, loc[:-1])
        allowed = f"allowed: {', '.join(names)}" if names else "no such key"
        hint = "" if hidden else did_you_mean(loc[-1], names)
        return f"{key}: unknown key, got {got}; {allowed}{hint}"
    if kind == "literal_error":
        return f"{key}: got {got}; allowed: {context['expected']}"
    bound = _BOUNDS.get(kind)
    if bound is not None:
        return f"{key}: got {got}; allowed: {bound.format(**context)}"
    if kind == "value_error":
        return f"{key}: {context['error']} (got {got})"
    return f"{key}: got {got}; allowed: {_lower_first(str(item['msg']))}"


_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "finite_number": "a finite number",
    "too_short": "at least {min_length} entry",
    "string_too_short": "at least {min_length} character(s)",
    "string_too_long": "at most {max_length} characters",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def _known_names(model: type[BaseModel], path: list[str]) -> list[str]:
    """Field names allowed at ``path`` inside ``model``; ``[]`` where anything goes."""
    current: Any = model
    for part in path:
        if get_origin(current) is dict:  # ``part`` is any name
            current = get_args(current)[1]
            continue
        field = current.model_fields.get(part)
        current = None if field is None else _inner(field.annotation)
        if current is None:
            return []
    return [] if get_origin(current) is dict else list(current.model_fields)


def _inner(annotation: Any) -> Any:
    """The model, or the dict of models, that a field holds, if it does."""
    for one in (annotation, *get_args(annotation)):
        if get_origin(one) is dict:
            if _is_model(get_args(one)[1]):
                return one
        elif _is_model(one):
            return one
    return None


def _is_model(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, BaseModel)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
