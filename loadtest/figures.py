"""Percentiles, the way all reports have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILES = (50, 90, 95, 99)


def quantile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that so many percent do not exceed; ``None`` of nothing."""
    if not len(values):
        return None
    return float(np.percentile(values, percent, method="inverted_cdf"))


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """``{"p50": ..., "p90": ..., "p95": ..., "p99": ...}``."""
    return {f"p{percent}": quantile(values, percent) for percent in PERCENTILES}
