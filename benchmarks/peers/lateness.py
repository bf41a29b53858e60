"""Percentiles in which a request without a good picture counts as infinitely late."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def late(figures: Sequence[float], errors: int, *percents: float) -> tuple[float, ...]:
    """Percentiles over all that were asked; infinite where one falls on, or next to, an error.

    Args:
        figures: of those that were answered.
        errors: how many were not.
        percents: which percentiles.
    """
    asked = np.sort(np.append(np.asarray(figures, float), np.full(errors, np.inf)))
    if not asked.size:
        return (np.inf,) * len(percents)
    # As `np.percentile`, which makes no number of a place between an answer and an error.
    places = np.asarray(percents) / 100 * (asked.size - 1)
    return tuple(float(one) for one in np.interp(places, np.arange(asked.size), asked))
