"""How much work is wanted, and how much will be when replicas asked for now are ready."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from serve_app.autoscaling.views import Demand

# The level is a mean over this long; a newest value above it by so many standard deviations of
# Poisson arrivals is a real rise and counts at once.
LEVEL_S = 120.0
_SIGNIFICANT = 3.0
# Demand is averaged over about this long when it is observed.
_SAMPLE_S = 30.0
# The slope is fitted to this long, and trusted to at most double the demand.
TREND_S = 600.0
_MOST_GROWTH = 2.0


class Sample(NamedTuple):
    """Demand at a time: row-steps a second and pictures a second."""

    at: float
    rate: float
    pictures: float


def level(samples: Sequence[Sample]) -> float:
    """Row-steps a second now: a mean over ``LEVEL_S``, or the newest where that is really more."""
    newest = samples[-1]
    recent = [sample for sample in samples if sample.at > newest.at - LEVEL_S]
    mean = sum(sample.rate for sample in recent) / len(recent)
    pictures = sum(sample.pictures for sample in recent) / len(recent)
    if pictures == 0:
        return newest.rate
    noise = mean / pictures * math.sqrt(pictures / _SAMPLE_S)
    return newest.rate if newest.rate > mean + _SIGNIFICANT * noise else mean


def growth(samples: Sequence[Sample], ahead_s: float) -> float:
    """Row-steps a second by which demand will have risen in ``ahead_s``; never negative.

    The least-squares slope less two standard errors of it (Draper and Smith, Applied Regression
    Analysis, 1998, ch. 1): noise around a constant predicts no growth.
    """
    newest = samples[-1]
    recent = [sample for sample in samples if sample.at > newest.at - TREND_S]
    count = len(recent)
    if count < 8 or newest.at - recent[0].at < LEVEL_S:
        return 0.0
    mean_at = sum(sample.at for sample in recent) / count
    mean_rate = sum(sample.rate for sample in recent) / count
    spread = sum((sample.at - mean_at) ** 2 for sample in recent)
    slope = sum((s.at - mean_at) * (s.rate - mean_rate) for s in recent) / spread
    misfit = sum((s.rate - mean_rate - slope * (s.at - mean_at)) ** 2 for s in recent)
    # Neighbouring samples share arrivals: fewer are independent than were taken.
    span = newest.at - recent[0].at
    independent = max(3.0, min(count, span / _SAMPLE_S))
    error = math.sqrt(misfit / count / spread * count / (independent - 2))
    rise = max(0.0, slope - 2 * error) * ahead_s
    return min(rise, (_MOST_GROWTH - 1) * max(newest.rate, mean_rate))


def required(
    samples: Sequence[Sample],
    demand: Demand,
    *,
    ahead_s: float,
    slo_s: float,
    headroom: float,
    safety: float,
    drain_s: float,
) -> float:
    """Row-steps a second that the fleet must be able to do.

    The level and its growth with headroom for what the capacities are wrong by; a safety stock
    for chance, which grows with the square root of the demand (square-root staffing: Halfin and
    Whitt, Operations Research 29(3), 1981; here by the work that arrives within the objective);
    and what it takes to work the backlog off within ``drain_s``.
    """
    now = level(samples)
    later = now + growth(samples, ahead_s)
    pictures = demand.pictures_per_s
    if now <= 0 or pictures <= 0:
        stock = 0.0
    else:
        work = demand.row_steps_per_s / pictures
        stock = safety * work * math.sqrt(later / work / slo_s)
    return later * (1 + headroom) + stock + demand.backlog / drain_s
