"""Reading server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_FRESH = "message"


@dataclass(frozen=True, slots=True)
class Event:
    """One event with its JSON data."""

    name: str
    data: dict[str, Any]


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events in ``lines`` (without line ends); comments and other fields are skipped.

    Raises:
        ValueError: an event's data is not a JSON object.
    """
    name, data = _FRESH, list[str]()
    for line in lines:
        if not line:
            if data:
                yield Event(name, _as_object("\n".join(data)))
            name, data = _FRESH, []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _as_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"an event's data is not a JSON object: {text[:80]}")
    return value
