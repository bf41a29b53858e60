"""The embedded model's CPU artifact: compiled once, by the command, for all tests that run it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from compile.cli import main
from compile.registry import open_registry
from compile.snapshot import local_folder, take

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = ["--model", "embedded", "--accelerator", "cpu", "--height", "64", "--width", "64"]
# Two guided pictures. One batch: each more takes half a minute to compile.
BATCH = 4


def registry_folder(cache: Path) -> Path:
    """A registry in pytest's cache, of its own for each version of the code and the model."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "compile").rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(take("embedded", None).model.revision.encode())
    return cache / digest.hexdigest()[:16]


def compile_embedded(registry: Path) -> str:
    """Compile and publish; returns the tag."""
    arguments = [*ARGUMENTS, "--batch", str(BATCH), "--publish", str(registry)]
    assert main(arguments) == 0
    (entry,) = open_registry(str(registry)).entries()
    return entry.tag


def embedded_folder() -> Path:
    """The model's own folder."""
    folder = local_folder("embedded")
    assert folder is not None
    return folder
