"""What was measured, kept in a file after each cell, so that a run can be cut and resumed."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.hardware import cpu_name

PACKAGES = ("ray", "torch", "diffusers", "fastapi", "uvicorn")
Cell = dict[str, Any]


@dataclass
class Results:
    """Cells by kind, server and turn.

    Attributes:
        path: the file.
        conditions: date, hardware, versions, how it was run.
        cells: each with ``kind``, ``server``, ``turn`` and what was measured.
    """

    path: Path
    conditions: dict[str, Any] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, resume: bool) -> Results:
        """Those of the file, or none of a new run."""
        if resume and path.exists():
            found = json.loads(path.read_text("utf-8"))
            return cls(path, found["conditions"], found["cells"])
        return cls(path)

    def add(self, kind: str, server: str, turn: int, **measured: Any) -> None:
        """Keep a cell, in place of one of the same name."""
        self.cells = [c for c in self.cells if _name(c) != (kind, server, turn)]
        self.cells.append({"kind": kind, "server": server, "turn": turn, **measured})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"conditions": self.conditions, "cells": self.cells}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)

    def has(self, kind: str, server: str, turn: int) -> bool:
        """Whether it was measured."""
        return any(_name(cell) == (kind, server, turn) for cell in self.cells)

    def of(self, kind: str, server: str | None = None) -> list[Cell]:
        """The cells of a kind, in the order of measurement."""
        return [c for c in self.cells if c["kind"] == kind and server in (None, c["server"])]

    def servers(self, kind: str) -> list[str]:
        """Who has cells of a kind."""
        return list(dict.fromkeys(cell["server"] for cell in self.of(kind)))


def _name(cell: Cell) -> tuple[str, str, int]:
    return cell["kind"], cell["server"], cell["turn"]


def conditions(peers: dict[str, str]) -> dict[str, Any]:
    """Date, hardware and versions; ``peers`` are versions of what is not in this environment."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES} | peers,
        "load_before": round(os.getloadavg()[0], 1),
    }
