"""Small services for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.simulator import FixedScaler, Observation, PoolSpec, Report, Scenario, one_at_a_time
from loadtest.simulator.arrivals import Arrivals, Constant
from loadtest.simulator.simulation import Simulation


def pool(name: str = "a", seconds: float = 0.5, **changes: Any) -> PoolSpec:
    values: dict[str, Any] = {
        "speed": one_at_a_time(seconds),
        "price_per_hour": 1.0,
        "max_replicas": 10,
        "provisioning_s": 30.0,
        "start_s": 20.0,
    }
    return PoolSpec(name=name, **(values | changes))


def scenario(
    *pools: PoolSpec, arrivals: Arrivals | None = None, duration_s: float = 600.0, **changes: Any
) -> Scenario:
    return Scenario(
        name="test",
        pools=pools or (pool(),),
        arrivals=arrivals or Constant(1.0),
        duration_s=duration_s,
        **changes,
    )


@dataclass
class Steps:
    """A scaler that follows a table: from a second on, these targets."""

    table: Mapping[float, Mapping[str, int]]
    period_s: float = 1.0

    def decide(self, now_s: float, view: Observation) -> Mapping[str, int]:
        return self.table.get(now_s, {})


class Watcher:
    """Keeps everything a scaler is shown; changes nothing."""

    def __init__(self, period_s: float = 1.0) -> None:
        self.period_s = period_s
        self.seen: dict[float, Observation] = {}

    def decide(self, now_s: float, view: Observation) -> Mapping[str, int]:
        self.seen[now_s] = view
        return {}


def ran(made: Scenario, scaler: Any = None, seed: int = 0) -> tuple[Simulation, Report]:
    simulation = Simulation(made, scaler or FixedScaler({}), seed)
    return simulation, simulation.run("test")


def report(made: Scenario, scaler: Any = None, seed: int = 0) -> Report:
    return ran(made, scaler, seed)[1]
