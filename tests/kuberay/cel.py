"""``x-kubernetes-validations``: the CEL rules of CRDs, evaluated by cel-python.

Kubernetes' own string functions are added. Rules about changes (``oldSelf``) and rules that the
library cannot run are remembered, so that the test run can list what was not checked.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import celpy
from celpy import celtypes
from celpy.evaluation import CELEvalError

from tests.kuberay.manifest import Object

UNCHECKED: dict[str, str] = {}  # "Kind.path: rule" -> why

# CEL's reserved words; Kubernetes writes such a field's name with underscores around it.
_RESERVED = frozenset({"namespace", "package", "import", "if", "else", "for", "in", "as", "const"})


def _find(text: celtypes.StringType, pattern: celtypes.StringType) -> celtypes.StringType:
    found = re.search(str(pattern), str(text))
    return celtypes.StringType(found.group(0) if found else "")


def _split(text: celtypes.StringType, mark: celtypes.StringType) -> celtypes.ListType:
    return celtypes.ListType([celtypes.StringType(part) for part in str(text).split(str(mark))])


_FUNCTIONS: dict[str, Any] = {"find": _find, "split": _split}


@functools.cache
def program(rule: str) -> Any:
    """Compile ``rule``.

    Raises:
        celpy.CELParseError: the library cannot.
    """
    environment = celpy.Environment()
    return environment.program(environment.compile(rule), functions=_FUNCTIONS)


def violations(value: Any, schema: Object, path: str) -> Iterator[str]:
    """The rules of ``schema`` that ``value`` breaks, parts included.

    Args:
        value: an object with its defaults filled in.
        schema: its structural schema.
        path: for messages.
    """
    for entry in schema.get("x-kubernetes-validations", []):
        if broken(entry["rule"], value, path):
            yield f"{path}: {entry.get('message', entry['rule'])} (CEL: {entry['rule']})"
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        for key, inner in value.items():
            part = known.get(key, more if isinstance(more, dict) else {})
            yield from violations(inner, part, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from violations(inner, schema.get("items", {}), f"{path}[{index}]")


def broken(rule: str, value: Any, path: str) -> bool:
    """Whether ``value`` breaks ``rule``; ``False`` where that cannot be told here."""
    place = re.sub(r"\[\d+\]", "[]", path) + f": {rule.strip()}"
    if "oldSelf" in rule:
        UNCHECKED[place] = "about a change, not about one object"
        return False
    try:
        result = program(rule).evaluate({"self": celpy.json_to_cel(_escaped(value))})
    except (celpy.CELParseError, CELEvalError) as error:
        UNCHECKED[place] = f"cel-python: {str(error.args[0]).splitlines()[0][:120]}"
        return False
    return not bool(result)


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            f"__{key}__" if key in _RESERVED else key: _escaped(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return value
