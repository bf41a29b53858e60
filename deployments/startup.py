"""Where the time of a replica's start goes: a stack of named stages, each counted once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

# import: torch and diffusers.  download: model and artifact.  load: weights to the device.
# artifact: packaged graphs.  compile: just in time.  warm_up: first passes and calibration.
Stage = Literal["import", "download", "load", "artifact", "compile", "warm_up"]


class Timeline:
    """Seconds by stage; time in a stage within another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = {}
        self._inner = [0.0]

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Count the time of the block."""
        begin = time.monotonic()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.monotonic() - begin
            alone = took - self._inner.pop()
            self._inner[-1] += took
            self.seconds[name] = self.seconds.get(name, 0.0) + alone

    @property
    def total(self) -> float:
        """Seconds in all stages."""
        return sum(self.seconds.values())

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by stage, and in all as ``total``."""
        return {**{str(name): took for name, took in self.seconds.items()}, "total": self.total}

    def __str__(self) -> str:
        present = [name for name in get_args(Stage) if name in self.seconds]
        return ", ".join(f"{name} {self.seconds[name]:.1f} s" for name in present)


_current: ContextVar[Timeline | None] = ContextVar("startup_timeline", default=None)


@contextmanager
def recording() -> Iterator[Timeline]:
    """A new timeline, which ``stage`` writes to until the block ends (in this thread)."""
    timeline = Timeline()
    token = _current.set(timeline)
    try:
        yield timeline
    finally:
        _current.reset(token)


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Count the time of the block, if a start is being recorded."""
    timeline = _current.get()
    if timeline is None:
        yield
    else:
        with timeline.stage(name):
            yield
