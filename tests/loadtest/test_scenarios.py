"""The catalogue: every scenario with every scaler, and the command that runs them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtest.simulator import CHOICES, SCENARIOS, simulate
from loadtest.simulator.__main__ import main
from loadtest.simulator.arrivals import Poisson
from loadtest.simulator.mix import Mix
from loadtest.simulator.scenarios import PEAK_S, enough
from serve_app.routing.work import Work
from tests.loadtest.worlds import Steps, pool, report, scenario

DAYS = [name for name in SCENARIOS if name not in ("fifty-pools", "flash-crowd", "steady")]
TIMES = {"seed-rule": 4, "seed-rule-batched": 4, "whole-nodes": 3}


@pytest.mark.parametrize("scaler", CHOICES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_combination_runs(name: str, scaler: str) -> None:
    choice = CHOICES[scaler]
    made = choice.applied(SCENARIOS[name](0.0005 if name == "fifty-pools" else 0.2))
    got = simulate(replace(made, duration_s=300.0), choice.make(made), 0, scaler_name=scaler)
    assert got.requests > 0
    assert got.answered + got.errors == got.requests
    assert (got.scenario, got.scaler) == (name, scaler)


@pytest.mark.parametrize("name", DAYS)
@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_a_day_has_its_pictures_and_a_night(name: str, scale: float) -> None:
    made = SCENARIOS[name](scale)
    rates = made.arrivals.rates(np.arange(0.0, 86400.0, 60.0))
    daily = 400_000 * TIMES.get(name, 1) * scale
    assert rates.sum() * 60 == pytest.approx(daily, rel=1e-6)
    assert rates[0] / rates.max() == pytest.approx(0.1)
    assert rates.argmax() * 60 == PEAK_S


def test_a_choice_replaces_bounds_but_not_the_warm_start() -> None:
    choice = replace(CHOICES["fixed"], min_replicas=0, policy="latency", hold_s=7.0)
    seed_rule = SCENARIOS["seed-rule"](1.0)
    made = choice.applied(seed_rule)
    assert [spec.min_replicas for spec in made.pools] == [0, 0]
    assert made.initial == seed_rule.initial
    assert min(made.initial.values()) >= 2
    assert (made.policy, made.hold_s) == ("latency", 7.0)


def test_the_seed_rules_batched_capacity_is_its_thresholds() -> None:
    for name, factor in (("seed-rule", None), ("seed-rule-batched", 1.0)):
        made = SCENARIOS[name](1.0)
        for spec in made.pools:
            most = spec.speed.profile(made.default, made.slo_s).images_per_minute
            if factor is None:
                assert most < made.thresholds[spec.name] / 3
            else:
                assert most == pytest.approx(made.thresholds[spec.name])


def test_a_report_tells_how_close_changes_came() -> None:
    made = scenario(pool("a"), pool("b"), duration_s=600.0)
    table = {10.0: {"a": 2}, 40.0: {"b": 2}, 200.0: {"a": 1}, 260.0: {"a": 3, "b": 2}}
    got = report(made, Steps(table))
    assert got.changed_at == {"a": (10.0, 200.0, 260.0), "b": (40.0,)}
    assert got.changes == {"a": 4, "b": 1}
    assert got.shortest_gap_s() == 60.0
    assert got.shortest_gap_s(after_s=100.0) == 60.0
    assert got.shortest_gap_s(after_s=250.0) is None


def test_whole_nodes_are_asked_for_and_given_back_as_a_whole() -> None:
    choice = CHOICES["planner"]
    made = choice.applied(SCENARIOS["whole-nodes"](1.0))
    busy = replace(made, arrivals=Poisson(26.0), duration_s=2400.0)
    got = simulate(busy, choice.make(busy), 0, scaler_name="planner")
    counts = {sample.target["p4"] for sample in got.samples}
    assert max(counts) >= 8
    assert all(count % 8 == 0 for count in counts)
    assert got.shares["p4"] > 0.3


def test_enough_replicas() -> None:
    pools = [pool("a", 0.5, weight=3), pool("b", 1.0, weight=1, max_replicas=2), pool("c", 9.0)]
    # Of 10 a second 6 to a (2 a second each), 2 to b, and c misses the objective: its least.
    assert enough(pools, 10.0, 0.8) == {"a": 4, "b": 2, "c": 1}


def test_mix_draws_by_probability() -> None:
    mix = Mix(((Work(2, 10), 0.8), (Work(1, 5), 0.2)))
    works = mix.draw(np.random.default_rng(0), 10_000)
    assert works.count(Work(1, 5)) == pytest.approx(2000, abs=160)
    assert works == mix.draw(np.random.default_rng(0), 10_000)
    with pytest.raises(ValueError, match=r"sum to 0\.9"):
        Mix(((Work(2, 10), 0.9),))


def test_the_command_runs_the_planner_on_dozens_of_pools(tmp_path: Path) -> None:
    asked = "--scenario fifty-pools --scaler planner --scale 0.002 --out"
    main([*asked.split(), str(tmp_path)])
    run = json.loads((tmp_path / "fifty-pools.planner.0.json").read_text())
    assert run["answered"] == run["requests"] > 10_000
    assert len(run["changes"]) == 50


def test_the_command_writes_what_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("start_s,per_second\n0,0.5\n300,0.2\n")
    asked = "--scenario seed-rule --scaler fixed ongoing --seed 3 --scale 0.01 --policy latency"
    main([*asked.split(), "--trace", str(trace), "--out", str(tmp_path / "out")])
    assert "Simulated runs" in capsys.readouterr().out
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["seed-rule.fixed.3.json", "seed-rule.ongoing.3.json", "seed-rule.png"]
    run = json.loads((tmp_path / "out" / "seed-rule.fixed.3.json").read_text())
    assert run["requests"] == pytest.approx(210, abs=60)
    assert run["answered"] == run["requests"]
    assert len(run["samples"]) == 1440
    assert (tmp_path / "out" / "seed-rule.png").read_bytes()[:4] == b"\x89PNG"
