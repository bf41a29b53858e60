"""Ours over the best other's, paired turn by turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.paired import Ratio
from benchmarks.peers.results import Results
from benchmarks.peers.summary import figure


@dataclass(frozen=True)
class Figure:
    """What is compared: the ``key`` of cells of a ``kind``, of figures by request a percentile."""

    kind: str
    key: str
    percent: float = 50
    more: bool = False

    def turns(self, results: Results, server: str) -> dict[int, float]:
        """A server's, by turn."""
        cells = results.of(self.kind, server)
        return {cell["turn"]: figure(cell, self.key, self.percent) for cell in cells}


def against(results: Results, what: Figure, ours: str, others: Sequence[str]) -> Ratio | None:
    """Ours over the best other's of the same turn; the best is so over all the turns they share."""
    mine, pairs = what.turns(results, ours), []
    for other in others:
        theirs = what.turns(results, other)
        both = sorted(mine.keys() & theirs.keys())
        if both:
            pairs.append(([mine[turn] for turn in both], [theirs[turn] for turn in both]))
    if not pairs:
        return None
    ahead = max if what.more else min
    above, below = ahead(pairs, key=lambda pair: float(np.mean(pair[1])))
    # What fails is no yardstick, else failing less would be a win.
    for figures, instead in ((below, math.nan), (above, 0.0 if what.more else math.inf)):
        if not all(math.isfinite(one) and one > 0 for one in figures):
            return Ratio(instead, instead, instead, len(figures))
    return Ratio.of(above, below)
