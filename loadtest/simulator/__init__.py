"""A discrete-event simulation of the service, around the router that production uses.

``python -m loadtest.simulator --help``; or ``run_one`` and ``run_all`` by names, ``simulate`` with
any scenario and scaler.
"""

from loadtest.simulator.baselines import FixedScaler, OngoingScaler, ThresholdScaler, oracle_cost
from loadtest.simulator.choices import CHOICES, Choice
from loadtest.simulator.plot import plot
from loadtest.simulator.report import Report, Sample
from loadtest.simulator.scalers import Observation, PoolTraffic, Scaler
from loadtest.simulator.scenario import Scenario
from loadtest.simulator.scenarios import SCENARIOS
from loadtest.simulator.simulation import simulate
from loadtest.simulator.specification import IceWindow, Interruption, PoolSpec, one_at_a_time
from loadtest.simulator.suite import run_all, run_one

__all__ = [
    "CHOICES",
    "SCENARIOS",
    "Choice",
    "FixedScaler",
    "IceWindow",
    "Interruption",
    "Observation",
    "OngoingScaler",
    "PoolSpec",
    "PoolTraffic",
    "Report",
    "Sample",
    "Scaler",
    "Scenario",
    "ThresholdScaler",
    "one_at_a_time",
    "oracle_cost",
    "plot",
    "run_all",
    "run_one",
    "simulate",
]
