"""Many runs: every scenario with every scaler and every seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from loadtest.simulator.arrivals import Arrivals
from loadtest.simulator.choices import CHOICES
from loadtest.simulator.report import Report
from loadtest.simulator.scenarios import SCENARIOS
from loadtest.simulator.simulation import Progress, simulate


def run_one(
    scenario: str,
    scaler: str,
    seed: int,
    *,
    scale: float = 1.0,
    arrivals: Arrivals | None = None,
    policy: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """One run by names.

    Args:
        scenario: a key of ``SCENARIOS``.
        scaler: a key of ``CHOICES``.
        seed: of arrivals and of everything else that is random.
        scale: how many times the traffic, and the most replicas where that is more than once.
        arrivals: instead of the scenario's.
        policy: routing policy instead of the scenario's and the scaler's.
        progress: told which part is done.
    """
    choice = CHOICES[scaler]
    made = choice.applied(SCENARIOS[scenario](scale))
    if arrivals is not None:
        made = replace(made, arrivals=arrivals)
    if policy is not None:
        made = replace(made, policy=policy)
    return simulate(made, choice.make(made), seed, scaler_name=scaler, progress=progress)


def run_all(
    scenarios: Sequence[str],
    scalers: Sequence[str],
    seeds: Sequence[int],
    *,
    scale: float = 1.0,
    arrivals: Arrivals | None = None,
    policy: str | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Iterator[Report]:
    """One report after the other, seeds changing fastest; see ``run_one``.

    ``progress`` is called once per run with its title.
    """
    for scenario in scenarios:
        for scaler in scalers:
            for seed in seeds:
                title = f"{scenario} / {scaler} / seed {seed}"
                yield run_one(
                    scenario,
                    scaler,
                    seed,
                    scale=scale,
                    arrivals=arrivals,
                    policy=policy,
                    progress=None if progress is None else progress(title),
                )
