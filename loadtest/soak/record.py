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
# What is called flat, from the windows after the warm-up to the last ones. Traffic allows for no
# more: an allocator takes another arena now and then, but what every request leaves behind is a
# leak, and the more of them, the smaller a leak is found. Fewer would hide one of 20 kB a request.
MOST_MB, LEAST_REQUESTS = 20, 1000
MOST_FILES, MOST_THREADS, MOST_OBJECTS = 10, 4, 50
# The tail is of few pictures, and other programs' load shows there first.
MOST_SLOWER = {"p50_s": 1.5, "p95_s": 2.0}


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
        served = _middle(late) - _middle(early)
        if served < LEAST_REQUESTS:
            found.append(
                f"only {served:.0f} requests after the warm-up: too few for a leak to show"
            )
        for name in late[-1].processes:
            for what, allowed in (
                ("resident", MOST_MB),
                ("files", MOST_FILES),
                ("threads", MOST_THREADS),
            ):
                # A process that was not there early has grown by all that it is.
                grown = _median(late, name, what) - _median(early, name, what)
                if grown > allowed:
                    found.append(
                        f"{name}: {what} grew by {grown:.0f} in {served:.0f} requests"
                        f" (allowed: {allowed})"
                    )
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
        for what, most in MOST_SLOWER.items():
            before = statistics.median(one[what] for one in early)
            after = statistics.median(one[what] for one in late)
            if after > most * before:
                name = what.removesuffix("_s")
                yield f"{name} was {before:.3f} s and is {after:.3f} s (allowed: {most:g} times)"

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


def _middle(samples: Sequence[Sample]) -> float:
    """Requests finished in the middle of these looks."""
    return statistics.median(sample.requests for sample in samples)


def _median(samples: Sequence[Sample], name: str, what: str) -> float:
    values = [getattr(s.processes[name], what) for s in samples if name in s.processes]
    return float(statistics.median(values)) if values else 0.0
