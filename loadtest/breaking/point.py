"""The break point: the highest load at which the objective still holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loadtest.breaking.capacity import Draws
from loadtest.breaking.trial import Trial

Floats = NDArray[np.float64]

# Prior: the break point may be at any utilisation alike, lateness may set in slowly or fast (half
# as fast as where no waiting is allowed, to twelve times as fast).
_UTILISATIONS = np.linspace(0.0025, 0.9975, 200)
_SLOPES = np.geomspace(0.5, 12.0, 40)


def break_draws(
    trials: Sequence[Trial],
    capacity: Draws,
    *,
    slo_s: float,
    percent: float,
    rng: np.random.Generator,
) -> Draws:
    """Draws of the rate at which so many percent of requests just meet the objective.

    The share ``p`` of late requests is 0 without load (the caller sees to it that a picture alone
    is in time), never falls with the load, and is 1 where requests come as fast as they can be
    painted, as the queue then grows for ever. So ``logit(p) = logit(allowed) + slope *
    (logit(utilisation) - logit(break point))`` is fitted to the flags of all trials below the
    capacity, by the exact posterior on a grid; with every draw of it comes one of the capacity.
    (Without waiting allowed, ``p`` is the utilisation: slope 1.) Of few requests a tail says
    little: bounds are then wide.

    Args:
        trials: at any rates.
        capacity: draws of the saturated throughput, in pictures a second.
        slo_s: the objective in seconds.
        percent: of requests that must meet it.
        rng: where chance comes from.
    """
    top = float(np.median(capacity))
    used = [trial for trial in trials if trial.rate < 0.99 * top and trial.settled]
    load = logit(np.array([trial.rate / top for trial in used]))
    counts = np.array([independent(trial) for trial in used])
    late = counts * np.array([trial.late(slo_s).mean() for trial in used])
    allowed = float(logit(np.array([1 - percent / 100]))[0])
    point, slope = (one.ravel() for one in np.meshgrid(_UTILISATIONS, _SLOPES, indexing="ij"))
    odds = allowed + slope[:, None] * (load - logit(point)[:, None])
    likelihood = (late * odds - counts * np.logaddexp(0.0, odds)).sum(axis=1)
    weight = np.exp(likelihood - likelihood.max())
    picked = rng.choice(weight.size, capacity.size, p=weight / weight.sum())
    points: Draws = point[picked] * capacity
    return points


def logit(share: Floats) -> Floats:
    """``log(p / (1 - p))``."""
    odds: Floats = np.log(share / (1 - share))
    return odds


def independent(trial: Trial) -> float:
    """How many independent requests tell as much as a trial's: late ones come in spells.

    By the first autocorrelation of the latencies, as of an AR(1) process; not of the flags, as a
    trial without a late one would then seem to tell more than it does.
    """
    latencies = np.array([one.latency_s for one in trial.settled if one.ok])
    size, spread = len(trial.settled), latencies.var() if latencies.size else 0.0
    if latencies.size < 3 or spread == 0:
        return float(size)
    centred = latencies - latencies.mean()
    neighbours = float(np.mean(centred[1:] * centred[:-1]) / spread)
    neighbours = min(max(neighbours, 0.0), 0.98)
    return max(1.0, size * (1 - neighbours) / (1 + neighbours))
