"""Finds one pool's break point: raise the load until it breaks, then narrow down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from loadtest.breaking.capacity import Draws, Estimate, capacity_draws
from loadtest.breaking.point import break_draws
from loadtest.breaking.trial import Trial
from loadtest.figures import quantile
from loadtest.outcome import Outcome
from loadtest.shapes import ShapeOptions, arrivals, due_times

# Of the time for a pool: asking one by one, each step of the ramp, overload, each narrowing trial.
_ALONE, _RAMP, _HOLD, _NARROW = 0.1, 1 / 18, 0.2, 0.13
_ALONE_FEWEST, _ALONE_MOST = 3, 12
_GROWTH = 2.0
# Offered so many times the best throughput seen, more will not come.
_ENOUGH = 1.25
# A break point this close to the capacity is the capacity's.
_CLOSE = 0.97
# This close is enough where no trial was late: few requests are no proof.
_LIKELY = 0.8
_NARROW_ENOUGH = 0.05
_AROUND = (0.85, 1.15, 1.0)
_CURVE = (0.5, 0.8, 0.95)
# Requests that a trial must have to say anything.
_FEWEST = 5


class Subject(Protocol):
    """A pool under test."""

    def now(self) -> float:
        """Seconds on the clock that trials take place on."""
        ...

    async def send(self, due_s: Sequence[float]) -> list[Outcome]:
        """Send requests at these seconds from now; returns when none is left in the pool."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FinderOptions:
    """What a break point is, and how long to look for it.

    Attributes:
        slo_s: objective in seconds, from when a request was due to its picture.
        percent: of requests that must meet it.
        budget_s: seconds for the pool, about: a trial under way is brought to its end.
        at_once: requests that the pool paints at once.
        seed: of arrivals and bootstrap.
    """

    slo_s: float
    percent: float = 95.0
    budget_s: float = 120.0
    at_once: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found out about one pool; rates in pictures a second of the whole pool.

    Attributes:
        alone_s: seconds for a picture with nothing else to do, median.
        capacity: saturated throughput; ``None``: it was never saturated.
        break_point: highest load within the objective; at most the capacity.
        limited_by: ``"latency"``, ``"throughput"``, ``"undecided"`` between both for want of
            time, ``"latency, even alone"``, or ``"not reached"`` without a capacity.
        trials: all, in the order of time.
        notes: what spoils the figures.
    """

    alone_s: float
    capacity: Estimate | None
    break_point: Estimate | None
    limited_by: str
    trials: Sequence[Trial]
    notes: Sequence[str] = ()


class NothingPainted(Exception):  # noqa: N818 - says what is the matter
    """The pool paints nothing, so that there is nothing to measure."""


@dataclass
class Finder:
    """Carries the trials out.

    Attributes:
        subject: the pool.
        options: what is looked for.
        told: called with a few words before each trial.
        trials: so far.
        alone_s: seconds for a picture with nothing else to do, once known.
    """

    subject: Subject
    options: FinderOptions
    told: Callable[[str], None] = lambda words: None
    trials: list[Trial] = field(default_factory=list)
    alone_s: float | None = None

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.options.seed)
        self._began = self.subject.now()

    async def find(self) -> Found:
        """Everything, within the time given.

        Raises:
            NothingPainted: the pool fails even alone.
        """
        self.alone_s = alone_s = await self._alone()
        capacity = await self._saturate(alone_s)
        if capacity is None:
            return self._found(alone_s, None, "not reached")
        late_alone = alone_s > self.options.slo_s
        capacity = await self._narrow(alone_s, capacity, curve_only=late_alone)
        if late_alone:
            return self._found(alone_s, capacity, "latency, even alone", np.zeros_like(capacity))
        points = self._points(capacity)
        used = Estimate.of(points / capacity)
        by = "latency"
        never_late = not self._ever_late(float(np.median(capacity)))
        if used.value >= _CLOSE or (never_late and used.value >= _LIKELY):
            by = "throughput"
        elif used.high >= _CLOSE:
            by = "undecided"
        return self._found(alone_s, capacity, by, points)

    def so_far(self) -> Found | None:
        """What an interrupted search knows; ``None``: nothing."""
        if self.alone_s is None:
            return None
        return self._found(self.alone_s, self._capacity(), "interrupted")

    async def _alone(self) -> float:
        """Seconds of a picture alone; the first ones are the warm-up."""
        end = self._began + _ALONE * self.options.budget_s
        took: list[float] = []
        errors: list[str] = []
        while (tries := len(took) + len(errors)) < _ALONE_MOST and (
            tries <= _ALONE_FEWEST or self.subject.now() < end
        ):
            self.told("one request at a time")
            (outcome,) = await self.subject.send([0.0])
            if outcome.ok:
                took.append(outcome.latency_s)
            else:
                errors.append(outcome.answer.error)
        if len(took) < _ALONE_FEWEST:
            raise NothingPainted(f"it answers {', '.join(sorted(set(errors)))} to single requests")
        alone_s = quantile(took[1:], 50)
        assert alone_s is not None  # noqa: S101 - there are at least two
        return alone_s

    async def _saturate(self, alone_s: float) -> Draws | None:
        """Raise the load until throughput stops growing, then hold it there."""
        rate = 0.5 / alone_s
        while self._left() > _HOLD:
            await self._trial(rate, max(_RAMP * self.options.budget_s, 5 * alone_s))
            capacity = self._capacity()
            if capacity is not None and rate >= _ENOUGH * np.median(capacity):
                rate = _ENOUGH * float(np.median(capacity))
                await self._trial(rate, max(_HOLD * self.options.budget_s, 10 * alone_s))
                return self._capacity()
            rate *= _GROWTH
        return None

    async def _narrow(self, alone_s: float, capacity: Draws, *, curve_only: bool) -> Draws:
        """Trials below, above and at the present estimate, until it is close or time is up.

        ``curve_only``: the break point is known; a few trials show how latency grows.
        """
        duration_s = max(_NARROW * self.options.budget_s, 6 * alone_s)
        turn = 0
        while self._left() > duration_s / self.options.budget_s:
            top = float(np.median(capacity))
            if curve_only:
                if turn == len(_CURVE):
                    break
                rate = _CURVE[turn] * top
            else:
                estimate = Estimate.of(self._points(capacity))
                wide = estimate.high - estimate.low
                if turn >= len(_AROUND) and wide < _NARROW_ENOUGH * estimate.value:
                    break
                rate = _AROUND[turn % len(_AROUND)] * estimate.value
            await self._trial(min(max(rate, _FEWEST / duration_s), _CLOSE * top), duration_s)
            capacity = self._known(self._capacity())
            turn += 1
        return capacity

    async def _trial(self, rate: float, duration_s: float) -> None:
        self.told(f"{rate * 60:.0f} pictures a minute for {duration_s:.0f} s")
        seed = int(self._rng.integers(2**32))
        due_s = due_times(arrivals("poisson", ShapeOptions(rate, duration_s)), duration_s, seed)
        self.trials.append(Trial(rate, duration_s, await self.subject.send(due_s)))

    def _capacity(self) -> Draws | None:
        return capacity_draws(self.trials, self.options.at_once, self._rng)

    def _points(self, capacity: Draws) -> Draws:
        options = self.options
        return break_draws(
            self.trials, capacity, slo_s=options.slo_s, percent=options.percent, rng=self._rng
        )

    def _ever_late(self, top: float) -> bool:
        """Whether any trial below the capacity missed the objective."""
        allowed = 1 - self.options.percent / 100
        below = [trial.late(self.options.slo_s) for trial in self.trials if trial.rate < top]
        return any(flags.size and flags.mean() > allowed for flags in below)

    def _left(self) -> float:
        return 1 - (self.subject.now() - self._began) / self.options.budget_s

    def _found(
        self, alone_s: float, capacity: Draws | None, limited_by: str, points: Draws | None = None
    ) -> Found:
        failed = sum(trial.failed for trial in self.trials)
        notes = []
        if failed:
            sent = sum(len(trial.outcomes) for trial in self.trials)
            notes.append(f"{failed} of {sent} requests got no picture")
        return Found(
            alone_s=alone_s,
            capacity=None if capacity is None else Estimate.of(capacity),
            break_point=None if points is None else Estimate.of(points),
            limited_by=limited_by,
            trials=tuple(self.trials),
            notes=tuple(notes),
        )

    @staticmethod
    def _known(capacity: Draws | None) -> Draws:
        assert capacity is not None  # noqa: S101 - what saturated once stays among the trials
        return capacity
