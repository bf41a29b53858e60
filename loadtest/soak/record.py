"""What a soak saw over its time, and whether it was flat."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from loadtest.soak.processes import Size

T = TypeVar("T")

WINDOWS = 12
# Windows at the beginning in which caches and allocators fill.
_WARM = 3
_TOLD = 5
# What is called flat, from the windows after the warm-up to the last ones.
MOST_MB_PER_1000, LEAST_MB = 2.0, 10.0
MOST_FILES, MOST_THREADS, MOST_OBJECTS = 10, 4, 50
MOST_SLOWER = 1.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        at: seconds since the start.
        requests: finished so far.
        processes: what each holds, by name.
        objects: in Ray; ``None``: could not be asked.
    """

    at: float
    requests: int
    processes: dict[str, Size]
    objects: int | None


@dataclass
class Record:
    """All of a soak.

    Attributes:
        samples: looks, in order.
        latencies: seconds since the start, and what a plain picture took in seconds.
        statuses: of all answers; ``left`` for clients that left on purpose.
        unexpected: answers with another status than the request deserves.
    """

    samples: list[Sample] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Finished."""
        return self.statuses.total()

    def windows(self) -> list[dict[str, float]]:
        """p50 and p95 in seconds of equal stretches of the time."""
        if not self.latencies:
            return []
        span = max(at for at, _ in self.latencies) / WINDOWS or 1.0
        found = []
        for index in range(WINDOWS):
            took = sorted(
                took
                for at, took in self.latencies
                if index * span < at <= (index + 1) * span or (index == 0 and at == 0)
            )
            if took:
                found.append(
                    {
                        "until_s": (index + 1) * span,
                        "pictures": len(took),
                        "p50_s": took[len(took) // 2],
                        "p95_s": took[int(0.95 * len(took))],
                    }
                )
        return found

    def problems(self) -> list[str]:
        """What was not flat, in words; needs at least a dozen looks."""
        found = self.unexpected[:_TOLD]
        if len(self.samples) < WINDOWS:
            return [*found, f"only {len(self.samples)} looks: too short a run to tell"]
        early, late = _ends(self.samples)
        served = late[-1].requests - early[0].requests
        allowed_mb = max(LEAST_MB, MOST_MB_PER_1000 * served / 1000)
        for name in late[-1].processes:
            for what, allowed in (
                ("resident", allowed_mb),
                ("files", MOST_FILES),
                ("threads", MOST_THREADS),
            ):
                # A process that was not there early has grown by all that it is.
                grown = _median(late, name, what) - _median(early, name, what)
                if grown > allowed:
                    found.append(f"{name}: {what} grew by {grown:.0f} (allowed: {allowed:.0f})")
        objects = [
            statistics.median(s.objects for s in some if s.objects is not None)
            for some in (early, late)
            if any(s.objects is not None for s in some)
        ]
        if len(objects) < 2:
            found.append("Ray did not tell how many objects it holds")
        elif objects[1] - objects[0] > MOST_OBJECTS:
            found.append(f"Ray objects grew from {objects[0]:.0f} to {objects[1]:.0f}")
        return [*found, *self._slower()]

    def _slower(self) -> Iterator[str]:
        windows = self.windows()
        if len(windows) < WINDOWS:
            yield f"in {WINDOWS - len(windows)} of {WINDOWS} stretches no picture came"
            return
        early, late = _ends(windows)
        before = statistics.median(one["p50_s"] for one in early)
        after = statistics.median(one["p50_s"] for one in late)
        if after > MOST_SLOWER * before:
            yield f"p50 was {before:.3f} s and is {after:.3f} s (allowed: {MOST_SLOWER:g} times)"

    def as_json(self) -> dict[str, Any]:
        """Everything but single latencies."""
        return {
            "requests": self.requests,
            "statuses": dict(self.statuses),
            "problems": self.problems(),
            "windows": self.windows(),
            "samples": [asdict(sample) for sample in self.samples],
        }


def _ends(items: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """The quarter after the warm-up, and the last quarter."""
    length = len(items) // 4
    begin = len(items) * _WARM // WINDOWS
    return items[begin : begin + length], items[-length:]


def _median(samples: Sequence[Sample], name: str, what: str) -> float:
    values = [getattr(s.processes[name], what) for s in samples if name in s.processes]
    return float(statistics.median(values)) if values else 0.0
