"""Recorded traces: when each request came and what it asked for."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Recorded = tuple[float, dict[str, Any]]

_COLUMNS = ["at_s", "body"]


def read_trace(path: Path) -> list[Recorded]:
    """Seconds from the start and bodies, in order of time.

    JSON lines ``{"at_s": 0.5, "body": {...}}``, or a CSV with the columns ``at_s,body`` where the
    body is JSON.

    Raises:
        ValueError: names the line and what is wrong with it.
        OSError: it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        rows = _csv_rows(lines) if path.suffix.lower() == ".csv" else _json_rows(lines)
        found = []
        try:
            for number, at_s, body in rows:
                found.append(_checked(number, at_s, body))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if not found:
        raise ValueError(f"{path}: no requests in it")
    return sorted(found, key=lambda one: one[0])


def write_trace(path: Path, requests: Iterable[tuple[float, Mapping[str, Any]]]) -> None:
    """Write JSON lines that ``read_trace`` takes."""
    with path.open("w", encoding="utf-8") as out:
        for at_s, body in requests:
            out.write(json.dumps({"at_s": round(at_s, 6), "body": dict(body)}) + "\n")


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _json(number, line)
            if not isinstance(row, dict) or set(row) != set(_COLUMNS):
                raise ValueError(f'line {number}: expected {{"at_s": seconds, "body": {{...}}}}')
            yield number, row["at_s"], row["body"]


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any, Any]]:
    reader = csv.DictReader(lines)
    if reader.fieldnames is None or list(reader.fieldnames) != _COLUMNS:
        raise ValueError(f"line 1: got {reader.fieldnames}; expected the columns at_s,body")
    for row in reader:
        number = reader.line_num
        try:
            at_s = float(row["at_s"])
        except (TypeError, ValueError):
            raise ValueError(f"line {number}: at_s: got {row['at_s']!r}; not a number") from None
        yield number, at_s, _json(number, row["body"] or "")


def _json(number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"line {number}: no JSON: {error}") from None


def _checked(number: int, at_s: Any, body: Any) -> Recorded:
    numeric = isinstance(at_s, int | float) and not isinstance(at_s, bool)
    if not numeric or not math.isfinite(at_s) or at_s < 0:
        raise ValueError(f"line {number}: at_s: got {at_s!r}; allowed: seconds from 0")
    if not isinstance(body, dict):
        raise ValueError(f"line {number}: body: got {body!r}; allowed: an object of fields")
    return float(at_s), body
