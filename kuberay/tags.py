"""Image tags in files that people write: they must be those of the project's version."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_TAG = re.compile(r"(?:\bimagine:|\bnewTag: )(?P<version>\d[\w.]*)-(?:cpu|cuda|neuron)\b")


def stale(root: Path, version: str) -> Iterator[str]:
    """``path:line: ...`` of every image tag under ``root`` with another version."""
    for path in sorted(root.rglob("*.yaml")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found = _TAG.search(line)
            if found and found["version"] != version:
                yield f"{path.relative_to(root)}:{number}: image version {found['version']}"
