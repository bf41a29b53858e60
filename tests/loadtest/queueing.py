"""What queueing theory says of one server that takes the same time for each request."""

from __future__ import annotations

import numpy as np


def md1_break(service_s: float, slo_s: float, percent: float) -> float:
    """The rate at which so many percent of an M/D/1 queue's times just reach ``slo_s``.

    By Lindley's recursion over half a million requests, halving.
    """
    gaps = np.random.default_rng(0).exponential(1.0, 500_000)
    low, high = 0.0, 1 / service_s
    for _ in range(14):
        rate = (low + high) / 2
        walk = np.cumsum(service_s - gaps / rate)
        waits = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
        late = float(np.quantile(waits + service_s, percent / 100)) > slo_s
        low, high = (low, rate) if late else (rate, high)
    return low
