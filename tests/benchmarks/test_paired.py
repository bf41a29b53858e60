"""Paired ratios: the interval holds the truth as often as it says, and the verdict follows it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paired import Ratio, Verdict


def test_what_slows_both_of_a_pair_does_not_count() -> None:
    base = np.array([1.0, 3.0, 0.5, 9.0])
    ratio = Ratio.of(base * 1.2, base)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((1.2,) * 3)
    assert (ratio.pairs, str(ratio)) == (4, "1.200 (1.200 to 1.200)")


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        ratio = Ratio.of(1.03 * chance.lognormal(0, 0.1, 40), chance.lognormal(0, 0.1, 40))
        held += ratio.low <= 1.03 <= ratio.high
    assert 0.88 < held / 200 <= 0.99


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.9, 1.05, "holds"), (1.06, 1.2, "does not hold"), (1.0, 1.2, "not decided")],
)
def test_verdicts(low: float, high: float, verdict: Verdict) -> None:
    assert Ratio(mean=(low + high) / 2, low=low, high=high, pairs=9).at_most(1.05) == verdict
    inverse = Ratio(mean=2 / (low + high), low=1 / high, high=1 / low, pairs=9)
    assert inverse.at_least(1 / 1.05) == verdict


def test_pairs_must_be_pairs() -> None:
    for ours, base in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match="as many"):
            Ratio.of(ours, base)
