"""The search over several pools of a running service, and what it adds up to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.breaking.finder import Finder, FinderOptions, Found, NothingPainted
from loadtest.breaking.pool import PinnedPool, curve_rate, places
from loadtest.breaking.proposal import PoolProposal, profile_of, propose, propose_weights
from loadtest.breaking.result import Result
from loadtest.host import HostWatch
from loadtest.service import LoadedService, Unreachable

Told = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What to look for, and how long.

    Attributes:
        slo_s: objective in seconds.
        percent: of requests that must meet it.
        minutes: for all pools together, about.
        side_by_side: pools measured at the same time.
        seed: of arrivals, bootstrap and pictures.
    """

    slo_s: float
    percent: float = 95.0
    minutes: float = 10.0
    side_by_side: int = 1
    seed: int = 0


@dataclass
class Search:
    """Measures pools; what is found is there also when it is interrupted.

    Attributes:
        service: the running service.
        names: pools to measure.
        options: what to look for.
        told: told a pool's name and what is done to it.
    """

    service: LoadedService
    names: Sequence[str]
    options: SearchOptions
    told: Told = lambda name, words: None
    found: dict[str, Found] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)
    _lags_s: list[float] = field(default_factory=list)
    _steps: int | None = None

    @property
    def budget_s(self) -> float:
        """Seconds for one pool."""
        turns = -(-len(self.names) // self.options.side_by_side)
        return self.options.minutes * 60 / turns

    async def run(self) -> None:
        """Measure every pool.

        Raises:
            Unreachable: the service does not show its pools.
        """
        self._steps = await self.service.default_steps()
        self.before = {pool["name"]: pool for pool in (await self.service.pools())["pools"]}
        self._host = HostWatch()
        gate = asyncio.Semaphore(self.options.side_by_side)
        async with asyncio.TaskGroup() as group:
            for name in self.names:
                group.create_task(self._one(gate, name))

    async def _one(self, gate: asyncio.Semaphore, name: str) -> None:
        async with gate:
            pool = PinnedPool(self.service, name, self.options.seed)
            options = FinderOptions(
                slo_s=self.options.slo_s,
                percent=self.options.percent,
                budget_s=self.budget_s,
                at_once=places(self.before[name]),
                seed=self.options.seed,
            )
            finder = Finder(pool, options, lambda words: self.told(name, words))
            try:
                self.found[name] = await finder.find()
            except NothingPainted as error:
                self.failed[name] = str(error)
            except asyncio.CancelledError:
                found = finder.so_far()
                if found is not None:
                    self.found[name] = found
                raise
            finally:
                self._lags_s.extend(pool.lags_s)
            self.told(name, "done")

    async def result(self, load: Mapping[str, Any], *, partial: bool) -> Result:
        """What was found so far."""
        shown = self.before
        problems = [*self._host_problems(), *await self._changed_replicas()]
        slo_s = self.options.slo_s
        profiles = {
            name: profile
            for name, found in self.found.items()
            if (profile := profile_of(found, max(1, shown[name]["ready_replicas"]), slo_s))
        }
        weights = propose_weights(profiles, shown, slo_s) if profiles else {}
        if profiles and not weights:
            problems.append("no pool meets the objective even alone: weights stay as they are")
        proposals: dict[str, PoolProposal] = {}
        for name, found in self.found.items():
            proposals[name] = propose(
                found,
                shown[name],
                slo_s=slo_s,
                weight=weights.get(name),
                curve_per_s=curve_rate(shown[name], self._steps),
            )
            problems += [f"{name}: {note}" for note in found.notes]
        changes: dict[str, Any] = {}
        if profiles:
            changes["slo_s"] = slo_s
            if weights:
                changes["weights"] = weights
            changes["profiles"] = {
                name: {
                    "latency_s": profile.latency_s,
                    "images_per_minute": profile.images_per_minute,
                }
                for name, profile in profiles.items()
            }
        return Result(
            load=load,
            found=dict(self.found),
            proposals=proposals,
            changes=changes,
            emulated=frozenset(name for name, pool in shown.items() if pool["emulated"]),
            failed=dict(self.failed),
            problems=problems,
            partial=partial,
        )

    def _host_problems(self) -> list[str]:
        problem = self._host.look(self._lags_s).problem
        return [] if problem is None else [problem]

    async def _changed_replicas(self) -> list[str]:
        try:
            shown = await self.service.pools()
        except Unreachable as error:
            return [f"the service is gone: {error}"]
        after = {pool["name"]: pool["ready_replicas"] for pool in shown["pools"]}
        return [
            f"{name}: had {was} replicas before and {after.get(name)} after; hold their number"
            for name in self.found
            if (was := self.before[name]["ready_replicas"]) != after.get(name)
        ]
