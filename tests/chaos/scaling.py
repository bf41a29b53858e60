"""An autoscaling policy that does what a file says, so that a test can scale pools at will."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class FilePolicy:
    """Replica counts from a JSON object ``{pool: count}``; pools left out keep theirs."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def __call__(self, contexts: Any) -> tuple[Any, Any]:
        """See Ray Serve's application-level policies."""
        wanted = json.loads(self._path.read_text(encoding="utf-8"))
        return {key: wanted[key.name] for key in contexts if key.name in wanted}, {}
