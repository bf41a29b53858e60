"""What a simulated run came to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sample:
    """One minute of a run.

    Attributes:
        at_s: the simulated second at its end.
        pictures_per_s, row_steps_per_s: arrivals in that minute, refused ones included.
        p95_s: 95th percentile of answers in that minute; ``None`` without any.
        dollars_per_hour: paid for nodes at its end.
        ready, target: replicas by pool at its end.
    """

    at_s: float
    pictures_per_s: float
    row_steps_per_s: float
    p95_s: float | None
    dollars_per_hour: float
    ready: Mapping[str, int]
    target: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run in numbers. Two runs of the same scenario, scaler and seed have equal reports.

    Attributes:
        scenario, scaler, seed: what was run.
        slo_s: the latency objective in seconds.
        requests: that arrived.
        answered: that got their picture.
        refused: turned away on arrival or on their retry, by the admission limits or because no
            pool was available and holding was off.
        unanswered: held too long, lost twice, or not done when the run was given up.
        retried: that lost their replica and were sent again.
        attainment: share of all requests answered within the objective.
        mean_s, p50_s, p95_s, p99_s: seconds from arrival to answer; ``None`` without any.
        dollars: paid for nodes while requests arrived.
        shares: part of the answers by pool.
        changes: replicas by which each pool's target was moved, up and down together.
        changed_at: simulated seconds at which each pool's target was moved.
        samples: minute by minute.
        wall_s: seconds that the simulation took; not part of equality.
    """

    scenario: str
    scaler: str
    seed: int
    slo_s: float
    requests: int
    answered: int
    refused: int
    unanswered: int
    retried: int
    attainment: float
    mean_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    dollars: float
    shares: Mapping[str, float]
    changes: Mapping[str, int]
    changed_at: Mapping[str, Sequence[float]]
    samples: Sequence[Sample]
    wall_s: float = field(default=0.0, compare=False)

    @property
    def errors(self) -> int:
        """Requests without a picture."""
        return self.refused + self.unanswered

    @property
    def dollars_per_1000(self) -> float | None:
        """US dollars for 1,000 pictures; ``None`` if there was none."""
        return self.dollars / self.answered * 1000 if self.answered else None

    def shortest_gap_s(self, after_s: float = 0.0) -> float | None:
        """Least seconds between two changes of one pool's target; ``None`` without two of any.

        Args:
            after_s: changes before it do not count.
        """
        kept = ([at for at in times if at >= after_s] for times in self.changed_at.values())
        return min((b - a for times in kept for a, b in pairwise(times)), default=None)

    @property
    def title(self) -> str:
        """Scenario, scaler and seed in a line."""
        return f"{self.scenario} / {self.scaler} / seed {self.seed}"

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(
            json.dumps(
                {**asdict(self), "errors": self.errors, "dollars_per_1000": self.dollars_per_1000},
                indent=1,
            )
            + "\n"
        )
