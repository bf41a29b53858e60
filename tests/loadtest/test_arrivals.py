"""Arrivals: rates as asked for, in order, repeatable; recorded traces."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from loadtest.simulator.arrivals import (
    Arrivals,
    Burst,
    Constant,
    CosineDay,
    Poisson,
    RateTrace,
    TimeTrace,
    read_trace,
)

DAY = 86400.0


def drawn(process: Arrivals, until_s: float, seed: int = 0) -> np.ndarray:
    return np.concatenate([*process.times(np.random.default_rng(seed), until_s), np.empty(0)])


@pytest.mark.parametrize(
    ("process", "from_s", "to_s", "expected"),
    [
        (Poisson(5), 0, 10_000, 50_000),
        (CosineDay(1, 5), 0, DAY, 3 * DAY),
        # The mean of a cosine over the quarter around its top: the middle plus 2/pi * sqrt(2).
        (CosineDay(1, 5), DAY * 3 / 8, DAY * 5 / 8, (3 + 2 * 2 * math.sqrt(2) / math.pi) * DAY / 4),
        (CosineDay(1, 5), 0, 600, 600),
        (Burst(Poisson(2), 10, 1000, 500), 0, 1000, 2000),
        (Burst(Poisson(2), 10, 1000, 500), 1000, 1500, 10_000),
        (Burst(Poisson(2), 10, 1000, 500), 1500, 5000, 7000),
        (Burst(Poisson(2), 0.1, 1000, 5000), 1000, 6000, 1000),
        (RateTrace((1, 0, 4), 1000), 0, 1000, 1000),
        (RateTrace((1, 0, 4), 1000), 1000, 2000, 0),
        (RateTrace((1, 0, 4), 1000), 2000, 3000, 4000),
        (RateTrace((1, 0, 4), 1000), 3000, 9000, 0),
    ],
)
def test_as_many_come_as_asked_for(
    process: Arrivals, from_s: float, to_s: float, expected: float
) -> None:
    at = drawn(process, to_s)
    count = np.count_nonzero(at >= from_s)
    assert abs(count - expected) <= 4 * math.sqrt(expected)
    assert np.all(np.diff(at) >= 0)
    assert at.size == 0 or at[-1] < to_s


def test_poisson_gaps_vary_as_much_as_they_are_long() -> None:
    gaps = np.diff(drawn(Poisson(3), 20_000))
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.02)


def test_constant_is_exact() -> None:
    assert drawn(Constant(4), 2.0).tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]


@pytest.mark.parametrize("process", [Poisson(5), CosineDay(1, 5), RateTrace((3, 5), 500)])
def test_seed_decides(process: Arrivals) -> None:
    assert drawn(process, 1000, 1).tolist() == drawn(process, 1000, 1).tolist()
    assert drawn(process, 1000, 1).tolist() != drawn(process, 1000, 2).tolist()


def test_recorded_times_start_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("timestamp\n105\n101\n103.5\n")
    trace = read_trace(path)
    assert trace == TimeTrace((0, 2.5, 4))
    assert drawn(trace, 3.0).tolist() == [0, 2.5]
    assert trace.rates(np.array([2.0])).tolist() == [3 / 60]


def test_recorded_rates(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("start_s,per_second\n0,2\n60,3.5\n")
    assert read_trace(path) == RateTrace((2, 3.5), 60)


@pytest.mark.parametrize(
    "text", ["", "when\n1\n", "timestamp\n", "start_s,per_second\n0,1\n60,1\n90,1\n"]
)
def test_unreadable_traces_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"trace\.csv: "):
        read_trace(path)
