"""Autoscaling policies for tests: one that does what a file says, one that can be made to fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve_app.autoscaling.policy import AutoscalingPolicy


class FilePolicy:
    """Replica counts from a JSON object ``{pool: count}``; pools left out keep theirs."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def __call__(self, contexts: Any) -> tuple[Any, Any]:
        """See Ray Serve's application-level policies."""
        wanted = json.loads(self._path.read_text(encoding="utf-8"))
        return {key: wanted[key.name] for key in contexts if key.name in wanted}, {}


class FaultyPolicy(AutoscalingPolicy):
    """The real policy, whose deciding and handing over fail while a file is there."""

    def __init__(self, fault: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._fault = Path(fault)

    def poll(self) -> None:
        """See ``AutoscalingPolicy``."""
        self._decider = (
            _Broken() if self._fault.exists() else None if self._is_broken() else self._decider
        )
        super().poll()

    def _hear(self, contexts: Any) -> None:
        if self._fault.exists():
            raise ZeroDivisionError("made to fail")
        super()._hear(contexts)

    def _is_broken(self) -> bool:
        return isinstance(self._decider, _Broken)


class _Broken:
    def decide(self, *arguments: Any, **named: Any) -> Any:
        raise ZeroDivisionError("made to fail")
