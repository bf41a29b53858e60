"""The goals, each against the best of the others, turn by turn of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.paired import Ratio
from benchmarks.peers.contestants import OURS, PLAIN
from benchmarks.peers.ratios import Figure, against
from benchmarks.peers.results import Results
from benchmarks.peers.summary import static
from benchmarks.peers.tables import number

SATURATED = 1.0  # at least so many times the best static batching
LATENCIES = {80: (0.5, 0.65), 95: (1.0, 1.0)}  # by load: p50 and p95 at most so many times its own
_WORDS = {"holds": "met", "does not hold": "missed", "not decided": "within noise"}


@dataclass(frozen=True)
class Verdict:
    """A goal and whether it was met.

    Attributes:
        goal: what was asked for.
        measured: ours over the best other's; infinite (of rates 0) where ours is an error's, no
            number where all the others' are. ``None``: not measured.
        limit: what it is held against.
        at_least: whether more is better.
    """

    goal: str
    measured: Ratio | None
    limit: float
    at_least: bool

    @property
    def word(self) -> str:
        """``met`` or ``missed`` where the interval says so, or why neither can be said."""
        if self.measured is None:
            return "not measured"
        if math.isnan(self.measured.mean):
            return "not decided"
        if self.measured.mean in (0, math.inf):
            return "missed"
        if self.measured.pairs == 1:
            return "one turn only"
        decide = self.measured.at_least if self.at_least else self.measured.at_most
        return _WORDS[decide(self.limit)]

    @property
    def missed(self) -> bool:
        """Whether it certainly was."""
        return self.word == "missed"

    @property
    def behind(self) -> bool:
        """Whether the mean alone misses it, be it within noise."""
        if self.measured is None or math.isnan(self.measured.mean):
            return False
        mean = self.measured.mean
        return mean < self.limit if self.at_least else mean > self.limit

    @property
    def text(self) -> str:
        """The ratio, and between what it lies if there is more than one turn."""
        found = self.measured
        if found is None or found.pairs == 1 or not math.isfinite(found.mean):
            return number(found.mean if found else None)
        return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def verdicts(results: Results, ours: str = OURS) -> list[Verdict]:
    """Every goal."""
    batching = static(results)
    others = [s for s in results.servers("alone") if not s.startswith(OURS)]
    rows = []
    for kind, steps in (("equal", "equal steps"), ("mixed", "mixed steps")):
        rate = Figure(kind, "rate", more=True)
        for name, rivals, limit in (
            ("best static batching", batching, SATURATED),
            ("one at a time", [PLAIN], 2.0),
        ):
            goal = f"saturated, {steps}: images/s ÷ {name}"
            rows.append(Verdict(goal, against(results, rate, ours, rivals), limit, True))
    for load, limits in LATENCIES.items():
        for percent, limit in zip((50, 95), limits, strict=True):
            what = Figure(f"load {load}", "latencies_ms", percent)
            goal = f"{load} % load, mixed steps: p{percent} ÷ best static batching's"
            rows.append(Verdict(goal, against(results, what, ours, batching), limit, False))
    for goal, what in (
        ("overhead per request ÷ the leanest other's", Figure("alone", "beyond_ms")),
        ("memory ÷ the leanest other's", Figure("start", "pss_mb")),
    ):
        rows.append(Verdict(goal, against(results, what, ours, others), 1.0, False))
    return rows
