"""What requests ask for: kinds of work and how often each comes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serve_app.routing.work import Work

DEFAULT_WORK = Work(2, 10)


@dataclass(frozen=True, slots=True)
class Mix:
    """Kinds of work with their probabilities, which sum to 1."""

    parts: tuple[tuple[Work, float], ...] = ((DEFAULT_WORK, 1.0),)

    def __post_init__(self) -> None:
        total = sum(share for _, share in self.parts)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"mix: probabilities sum to {total:g}, not to 1")

    def draw(self, rng: np.random.Generator, count: int) -> list[Work]:
        """The work of ``count`` requests."""
        works = [work for work, _ in self.parts]
        if len(works) == 1:
            return works * count
        chosen = rng.choice(len(works), count, p=[share for _, share in self.parts])
        return [works[index] for index in chosen.tolist()]
