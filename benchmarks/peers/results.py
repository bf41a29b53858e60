"""What was measured, kept in a file after each cell, so that a run can be cut and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.hardware import cpu_name
from benchmarks.peers.contestants import ROOT

PACKAGES = ("ray", "torch", "diffusers", "fastapi", "uvicorn")
# What decides the figures: ratios between cells that differ in it mean nothing.
SAME = ("code", "cores", "cpu", "python", "versions")
MEASURED = (
    "benchmarks/*.py",
    "deployments",
    "models",
    "serve_app",
    "serve_config.yaml",
    "constraints*.txt",
)
Cell = dict[str, Any]


class MixedError(Exception):
    """A run is to be gone on with where it would not be the same run; says what differs."""


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
    def open(cls, path: Path, resume: bool, conditions: dict[str, Any]) -> Results:
        """Those of the file, or none of a new run.

        Raises:
            MixedError: the file's were measured under other conditions.
        """
        if not (resume and path.exists()):
            return cls(path, conditions)
        found = json.loads(path.read_text("utf-8"))
        then = found["conditions"]
        other = [
            f"{key}: {then.get(key)} then, {conditions.get(key)} now"
            for key in SAME
            if then.get(key) != conditions.get(key)
        ]
        if other:
            raise MixedError(f"{path} cannot be gone on with. {'; '.join(other)}")
        return cls(path, then, found["cells"])

    def add(self, kind: str, server: str, turn: int, **measured: Any) -> None:
        """Keep a cell, in place of one of the same name."""
        self.cells = [c for c in self.cells if _name(c) != (kind, server, turn)]
        now = self.conditions
        under = {
            "date": time.strftime("%Y-%m-%d"),
            "code": now.get("code"),
            "hardware": f"{now.get('cores')} cores of {now.get('cpu')}",
        }
        self.cells.append({"kind": kind, "server": server, "turn": turn, "under": under} | measured)
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

    def under(self, key: str) -> list[str]:
        """The dates, codes or hardware that cells were measured under."""
        return sorted({str(cell["under"][key]) for cell in self.cells})

    def servers(self, kind: str) -> list[str]:
        """Who has cells of a kind."""
        return list(dict.fromkeys(cell["server"] for cell in self.of(kind)))


def _name(cell: Cell) -> tuple[str, str, int]:
    return cell["kind"], cell["server"], cell["turn"]


def conditions(peers: dict[str, str]) -> dict[str, Any]:
    """Date, code, hardware, versions; ``peers`` are versions of what is not in this environment."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "code": code(),
        "cores": os.cpu_count(),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES} | peers,
        "load_before": round(os.getloadavg()[0], 1),
    }


def code(root: Path = ROOT) -> str:
    """The last commit that changed what is measured, with a digest of what was edited since."""

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", *command, "--", *MEASURED], cwd=root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        commit, edited = git("log", "-1", "--format=%h"), git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # not a clone
    digest = hashlib.sha256(edited.encode()).hexdigest()[:8]
    return f"{commit} and edits {digest}" if edited else commit
