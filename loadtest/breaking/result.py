"""What a search leaves behind: figures as JSON, settings as YAML, a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich.table import Table

from loadtest.breaking.capacity import Estimate
from loadtest.breaking.finder import Found
from loadtest.breaking.proposal import PoolProposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished search.

    Attributes:
        load: what was asked for: address, objective and so on.
        found: pool -> trials and estimates.
        proposals: pool -> what follows.
        changes: keys of ``user_config`` to change.
        emulated: pools without real hardware.
        failed: pool -> why it could not be measured.
        problems: sentences on what spoils the figures.
        partial: whether it was interrupted.
    """

    load: Mapping[str, Any]
    found: Mapping[str, Found]
    proposals: Mapping[str, PoolProposal]
    changes: Mapping[str, Any]
    emulated: frozenset[str]
    failed: Mapping[str, str]
    problems: Sequence[str]
    partial: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "partial": self.partial,
            "load": dict(self.load),
            "problems": list(self.problems),
            "failed": dict(self.failed),
            "user_config_changes": dict(self.changes),
            "pools": {
                name: {
                    "emulated": name in self.emulated,
                    "alone_s": found.alone_s,
                    **self.proposals[name].as_json(),
                    "curve": [trial.as_json() for trial in found.trials],
                }
                for name, found in self.found.items()
            },
        }

    def table(self) -> Table:
        """Pools by the price of a picture."""
        table = Table(title=f"break points, objective {self.load['slo_ms']:g} ms", box=None)
        for name in ("pool", "alone s", "breaks, /min", "by", "capacity, /min"):
            table.add_column(name, justify="left" if name in ("pool", "by") else "right")
        for name in ("calibrated, /min", "$ per 1,000", "weight"):
            table.add_column(name, justify="right")
        for name in self.ranking():
            one, found = self.proposals[name], self.found[name]
            table.add_row(
                f"{name} (emulated)" if name in self.emulated else name,
                f"{found.alone_s:.3f}",
                bounds(one.break_point),
                one.limited_by,
                bounds(one.capacity),
                "-"
                if one.curve_images_per_minute is None
                else f"{one.curve_images_per_minute:.1f}",
                "-" if one.dollars_per_1000 is None else f"{one.dollars_per_1000:.3f}",
                "as it is" if one.weight is None else f"{one.weight:g}",
            )
        return table

    def ranking(self) -> list[str]:
        """Measured pools, cheapest picture first; those of unknown price last."""

        def price(name: str) -> tuple[bool, float]:
            cost = self.proposals[name].dollars_per_1000
            return cost is None, cost or 0.0

        return sorted(self.proposals, key=price)


def bounds(estimate: Estimate | None) -> str:
    """``105.0 (103-106)``."""
    if estimate is None:
        return "-"
    return f"{estimate.value:.1f} ({estimate.low:.0f}-{estimate.high:.0f})"


def settings_yaml(user_config: Mapping[str, Any], head: Sequence[str]) -> str:
    """A file that the ingress' ``user_config`` takes as it is; ``head``: lines of comment."""
    comment = "".join(f"# {line}\n" for line in head)
    return comment + yaml.safe_dump(dict(user_config), sort_keys=False, default_flow_style=None)
