"""When requests arrive: seeded processes that give times block by block."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

# Arrivals drawn at once, about.
_BLOCK = 8192
DAY_S = 86400.0


class Arrivals(Protocol):
    """A process of arrivals, all times in seconds from the start."""

    def times(self, rng: np.random.Generator, until_s: float) -> Iterator[Times]:
        """Blocks of ascending times before ``until_s``; the same ``rng`` gives the same ones."""
        ...

    def rates(self, at: Times) -> Times:
        """Expected requests a second at each time of ``at``."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """One request every ``1 / rate`` seconds, ``rate`` a second."""

    rate: float

    def times(self, rng: np.random.Generator, until_s: float) -> Iterator[Times]:
        """See ``Arrivals.times``."""
        count = int(np.ceil(until_s * self.rate))
        for start in range(0, count, _BLOCK):
            yield np.arange(start, min(start + _BLOCK, count)) / self.rate

    def rates(self, at: Times) -> Times:
        """See ``Arrivals.rates``."""
        return np.full(at.shape, self.rate)


class Varying(ABC):
    """A Poisson process whose rate varies: drawn at the highest rate, thinned to the rate.

    Lewis and Shedler, Simulation of nonhomogeneous Poisson processes by thinning, 1979.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def highest(self) -> float:
        """A rate that is never exceeded."""

    @abstractmethod
    def rates(self, at: Times) -> Times:
        """See ``Arrivals.rates``."""

    def times(self, rng: np.random.Generator, until_s: float) -> Iterator[Times]:
        """See ``Arrivals.times``."""
        highest = self.highest
        if highest <= 0:
            return
        start, window = 0.0, _BLOCK / highest
        while start < until_s:
            end = min(start + window, until_s)
            at = np.sort(rng.uniform(start, end, rng.poisson(highest * (end - start))))
            yield at[rng.random(at.size) * highest < self.rates(at)]
            start = end


@dataclass(frozen=True, slots=True)
class Poisson(Varying):
    """Independent arrivals, ``rate`` a second."""

    rate: float

    @property
    def highest(self) -> float:
        """See ``Varying.highest``."""
        return self.rate

    def rates(self, at: Times) -> Times:
        """See ``Arrivals.rates``."""
        return np.full(at.shape, self.rate)


@dataclass(frozen=True, slots=True)
class CosineDay(Varying):
    """Rate as a cosine between ``low`` (at the start) and ``high`` (half a period later).

    Attributes:
        low, high: requests a second.
        period_s: seconds from low to low.
    """

    low: float
    high: float
    period_s: float = DAY_S

    @property
    def highest(self) -> float:
        """See ``Varying.highest``."""
        return self.high

    def rates(self, at: Times) -> Times:
        """See ``Arrivals.rates``."""
        turn = 2 * np.pi / self.period_s
        rates: Times = self.low + (self.high - self.low) * (1 - np.cos(turn * at)) / 2
        return rates


@dataclass(frozen=True, slots=True)
class Burst(Varying):
    """A flash crowd: another process' rate, so many times for a while.

    Attributes:
        base: the process without it.
        factor: how many times the rate.
        from_s, for_s: when it starts and how long it stays, in seconds.
    """

    base: Varying
    factor: float
    from_s: float
    for_s: float

    @property
    def highest(self) -> float:
        """See ``Varying.highest``."""
        return self.base.highest * max(1.0, self.factor)

    def rates(self, at: Times) -> Times:
        """See ``Arrivals.rates``."""
        inside = (at >= self.from_s) & (at < self.from_s + self.for_s)
        return self.base.rates(at) * np.where(inside, self.factor, 1.0)


@dataclass(frozen=True, slots=True)
class RateTrace(Varying):
    """A recorded rate: Poisson arrivals within buckets of one length.

    Attributes:
        per_second: requests a second, bucket by bucket; none after the last.
        bucket_s: length of a bucket in seconds.
    """

    per_second: tuple[float, ...]
    bucket_s: float

    @property
    def highest(self) -> float:
        """See ``Varying.highest``."""
        return max(self.per_second)

    def rates(self, at: Times) -> Times:
        """See ``Arrivals.rates``."""
        table = np.append(np.array(self.per_second), 0.0)
        return table[np.minimum(at // self.bucket_s, len(self.per_second)).astype(np.intp)]


@dataclass(frozen=True, slots=True)
class TimeTrace:
    """Recorded arrivals, at ``at_s``: ascending seconds from the start."""

    at_s: tuple[float, ...]

    def times(self, rng: np.random.Generator, until_s: float) -> Iterator[Times]:
        """See ``Arrivals.times``."""
        at = np.array(self.at_s)
        yield at[at < until_s]

    def rates(self, at: Times) -> Times:
        """Counted over the minute around each time."""
        recorded = np.array(self.at_s)
        inside = np.searchsorted(recorded, at + 30.0) - np.searchsorted(recorded, at - 30.0)
        rates: Times = inside / 60.0
        return rates


def read_trace(path: Path) -> RateTrace | TimeTrace:
    """Read a CSV with the header ``timestamp`` (one request a line) or ``start_s,per_second``.

    Raises:
        ValueError: another header, too few lines, or buckets of unlike length.
    """
    with path.open(newline="") as lines:
        reader = csv.reader(lines)
        header = [name.strip() for name in next(reader, [])]
        rows = [[float(value) for value in row] for row in reader if row]
    if header == ["timestamp"] and rows:
        at = sorted(row[0] for row in rows)
        return TimeTrace(tuple(time - at[0] for time in at))
    if header == ["start_s", "per_second"] and len(rows) > 1:
        starts = np.array([row[0] for row in rows])
        lengths = np.diff(starts)
        if not np.allclose(lengths, lengths[0]) or lengths[0] <= 0:
            raise ValueError(f"{path}: buckets must follow each other and be of one length")
        return RateTrace(tuple(row[1] for row in rows), float(lengths[0]))
    raise ValueError(f"{path}: expected a column 'timestamp' or the two 'start_s,per_second'")
