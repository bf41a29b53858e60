"""The arithmetic of the benchmark beside other servers, and a real server driven by it."""

from __future__ import annotations

import asyncio
import io
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.batcher import Batcher
from benchmarks.engine import MIXES
from benchmarks.paired import Ratio
from benchmarks.peers.contestants import (
    OTHERS,
    OURS,
    OURS_HAPROXY,
    OURS_LEAN,
    PLAIN,
    ROOT,
    Contestant,
    our_config,
)
from benchmarks.peers.engine_table import LONGEST, engine_misses
from benchmarks.peers.engine_table import OURS as OURS_ENGINE
from benchmarks.peers.engine_table import STATIC as STATIC_ENGINE
from benchmarks.peers.lateness import late
from benchmarks.peers.load import Client, Order, Outcome, check_picture, model_ms
from benchmarks.peers.measure import CONCURRENCY, WEIGHTS, Effort, Measurer, arrivals, mixed
from benchmarks.peers.processes import URL, StartError, kind_of, running
from benchmarks.peers.report import page
from benchmarks.peers.results import MixedError, Results, code
from benchmarks.peers.summary import Value, percentiles, ratio
from benchmarks.peers.verdicts import Verdict, verdicts

STATIC, OTHER = "LitServe", "BentoML"


def made_up(path: Path) -> Results:
    """Two turns in which ours does a bit more than the better batching server."""
    results = Results(
        path,
        {
            "date": "2026-01-01",
            "code": "abc",
            "cores": 2,
            "cpu": "none",
            "python": "3.11",
            "versions": {"litserve": "0"},
            "load_before": 0.0,
        },
    )
    rates = {PLAIN: 5.0, STATIC: 10.0, OTHER: 8.0, OURS: 12.0, OURS_HAPROXY: 9.0}
    for turn in (0, 1):
        for place, (server, rate) in enumerate(rates.items()):
            measured = {"latencies_ms": [100.0, 200.0], "errors": []}
            for kind in ("equal", "mixed"):
                results.add(kind, server, turn, rate=rate + turn, **measured)
            alone = {"beyond_ms": [2.0 + place], "model_ms": [9.0]}
            results.add("alone", server, turn, **alone, **measured)
            results.add(
                "start", server, turn,
                cold_s=4.0 + place, processes=place, pss_mb=400 + place, rss_mb=500, by_kind={},
            )  # fmt: skip
            p50 = 200.0 if server == OURS else 500.0 + place
            for load in (50, 80, 95):
                latencies = {"latencies_ms": [p50, p50, 400.0 + 2 * p50], "errors": []}
                results.add(f"load {load}", server, turn, rate=4.0, offered=load / 10, **latencies)
    return results


def found(results: Results, ours: str = OURS) -> dict[str, Verdict]:
    return {verdict.goal: verdict for verdict in verdicts(results, ours)}


def test_verdicts_hold_ours_against_the_best_of_the_others_turn_by_turn(tmp_path: Path) -> None:
    goals = found(made_up(tmp_path / "r.json"))

    def measured(goal: str) -> Ratio:
        ratio = goals[goal].measured
        assert ratio is not None
        return ratio

    goal = "saturated, mixed steps: images/s ÷ best static batching"
    best = measured(goal)  # not BentoML's 8 and 9, nor our own 9 and 10
    assert (best.low, best.high, best.pairs) == pytest.approx((13 / 11, 12 / 10, 2))
    assert best.mean == pytest.approx(math.sqrt(13 / 11 * 12 / 10))
    assert goals[goal].word == "met"
    twice = measured("saturated, equal steps: images/s ÷ one at a time")
    assert (twice.low, twice.high) == pytest.approx((13 / 6, 12 / 5))
    goal = "80 % load, mixed steps: p50 ÷ best static batching's"
    assert measured(goal).mean == pytest.approx(200 / 501)  # LitServe, the second
    assert (goals[goal].limit, goals[goal].word) == (0.5, "met")
    goal = "overhead per request ÷ the leanest other's"
    assert (measured(goal).mean, goals[goal].word) == (pytest.approx(5.0 / 2.0), "missed")
    goal = "memory ÷ the leanest other's"
    assert (measured(goal).mean, goals[goal].word) == (pytest.approx(403 / 400), "missed")


def test_turns_that_disagree_decide_nothing(tmp_path: Path) -> None:
    results = made_up(tmp_path / "r.json")
    (first,) = [c for c in results.of("mixed", OURS) if c["turn"] == 0]
    first["rate"] = 9.0
    goal = "saturated, mixed steps: images/s ÷ best static batching"
    assert found(results)[goal].word == "within noise"
    text = page(results, tmp_path / "picture.png")
    assert f"| {goal} | ≥ 1 | 1.03 (0.90 to 1.18) | within noise |" in text
    assert "2 turns are few: their whole range holds the true ratio in 50% of cases" in text
    results.cells.remove(first)  # nothing of one turn, as it has no pair of its own to differ from
    assert found(results)[goal].word == "one turn only"
    first["rate"] = 0.0
    results.cells.append(first)
    assert found(results)[goal].word == "missed"


def test_a_goal_without_cells_is_neither_met_nor_missed(tmp_path: Path) -> None:
    results = made_up(tmp_path / "r.json")
    results.cells = [cell for cell in results.cells if cell["server"] != OURS]
    assert {verdict.word for verdict in verdicts(results)} == {"not measured"}
    assert ratio(1.0, None) is None
    assert ratio(None, 1.0) is None


@pytest.mark.parametrize(
    ("low", "high", "at_least", "word"),
    [
        (1.0, 1.2, True, "met"),
        (0.8, 0.99, True, "missed"),
        (0.99, 1.2, True, "within noise"),
        (0.8, 1.0, False, "met"),
        (1.01, 1.2, False, "missed"),
        (0.8, 1.01, False, "within noise"),
    ],
)
def test_a_goal_is_met_where_the_whole_interval_is(
    low: float, high: float, at_least: bool, word: str
) -> None:
    measured = Ratio(mean=(low + high) / 2, low=low, high=high, pairs=4)
    assert Verdict("goal", measured, 1.0, at_least).word == word


def test_percentiles_are_over_all_turns_and_spread_over_their_means(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.json")
    results.add("load 80", OURS, 0, latencies_ms=[100.0, 200.0], errors=[])
    results.add("load 80", OURS, 1, latencies_ms=[300.0], errors=[])
    assert percentiles(results, "load 80", OURS) == (200.0, 290.0, 298.0)
    assert percentiles(results, "load 50", OURS) is None
    assert Value.of([1.0, 4.0]) == Value(2.5, 1.5)
    assert Value.of([]) is None
    assert Value.of([1.0, math.inf]) == Value(math.inf, math.inf)


def test_errors_are_infinitely_late() -> None:
    answered = [float(ms) for ms in range(1, 20)]
    assert late(answered, 0, 50, 100) == (10.0, 19.0)
    assert late(answered, 1, 50, 90, 95) == (10.5, pytest.approx(18.1), math.inf)
    assert late([5.0], 2, 0, 50) == (5.0, math.inf)
    assert late([], 3, 50) == late([], 0, 50) == (math.inf,)


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ({OURS}, {"missed"}),
        ({STATIC}, {"met"}),  # the other one is the best then
        ({STATIC, OTHER}, {"not decided"}),
        ({OURS, STATIC, OTHER}, {"not decided"}),
    ],
)
def test_a_server_that_fails_wins_nothing_and_is_no_yardstick(
    tmp_path: Path, failing: set[str], words: set[str]
) -> None:
    results = made_up(tmp_path / "r.json")
    for cell in results.cells:
        if cell["server"] in failing and "errors" in cell:
            cell["latencies_ms"], cell["errors"] = [1.0], ["HTTP 503"] * 3
    goals = {name: one for name, one in found(results).items() if "load" in name}
    assert {one.word for one in goals.values()} == words
    text = page(results, tmp_path / "picture.png")
    assert "∞ | ∞ to ∞ | ∞ | ∞ |" in text.partition("## Latency")[2].partition("\n## ")[0]


def test_results_are_kept_cell_by_cell_and_resumed(tmp_path: Path) -> None:
    path, here = tmp_path / "r.json", {"date": "2026-01-01", "code": "abc", "cores": 2}
    results = Results.open(path, True, here)
    results.add("mixed", STATIC, 0, rate=1.0)
    results.add("mixed", STATIC, 0, rate=2.0)
    again = Results.open(path, True, here | {"date": "2026-01-02"})
    assert [cell["rate"] for cell in again.of("mixed", STATIC)] == [2.0]
    assert again.conditions == here
    assert again.has("mixed", STATIC, 0)
    assert not again.has("mixed", STATIC, 1)
    assert Results.open(path, False, here).cells == []


@pytest.mark.parametrize("other", [{"code": "abd"}, {"cores": 4}, {"versions": {"ray": "3"}}])
def test_a_run_is_not_gone_on_with_where_it_would_be_another(
    tmp_path: Path, other: dict[str, object]
) -> None:
    path, here = tmp_path / "r.json", {"code": "abc", "cores": 2, "versions": {"ray": "2"}}
    Results.open(path, False, here).add("mixed", STATIC, 0, rate=1.0)
    key, now = next(iter(other.items()))
    with pytest.raises(MixedError, match=re.escape(f"{key}: {here[key]} then, {now} now")):
        Results.open(path, True, here | other)


def test_each_cell_says_what_it_was_measured_under_and_the_page_marks_a_mixture(
    tmp_path: Path,
) -> None:
    results = made_up(tmp_path / "r.json")
    assert results.cells[0]["under"]["code"] == "abc"
    assert results.cells[0]["under"]["hardware"] == "2 cores of none"
    assert "Mixed:" not in page(results, tmp_path / "picture.png")
    results.cells[0]["under"]["date"] = "2026-01-01"
    text = page(results, tmp_path / "picture.png")
    assert "**Mixed:** cells differ in date (2026-01-01, " in text


def test_the_code_is_that_of_what_is_measured(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)

    assert code(tmp_path) == "unknown"
    git("init")
    git("config", "user.name", "x")
    git("config", "user.email", "x@example.org")
    (tmp_path / "deployments").mkdir()
    measured, page = tmp_path / "deployments" / "engine.py", tmp_path / "page.md"

    def commit(path: Path, text: str) -> str:
        path.write_text(text)
        git("add", ".")
        git("commit", "-m", "x")
        return code(tmp_path)

    first = commit(measured, "1")
    assert commit(page, "other") == first
    measured.write_text("edited")
    assert code(tmp_path).startswith(f"{first} and edits ")
    assert commit(measured, "2") != first


def test_the_page_says_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    text = page(made_up(tmp_path / "r.json"), tmp_path / "picture.png")
    assert "| LitServe | 10.5 ± 0.5 | 1.00 | 1.91 |" in text
    assert "overhead per request ÷ the leanest other's: 2.50 (2.50 to 2.50), goal 1" in text
    better = text.partition("## Where others are better")[2]
    # No goal of throughput was missed.
    assert "÷ best static batching" not in better.partition("##")[0]
    assert "Cold start: 7.0 s against 4.0 s" in text
    assert "![latency by load](" in text
    nothing = page(Results(tmp_path / "none", made_up(tmp_path / "r.json").conditions), tmp_path)
    assert "![" not in nothing
    assert "* BentoML: not part of this run" in nothing
    light = text.partition("## More pools")[2].partition("##")[0]
    assert "Not measured." in light


ENGINE = """
Step cost per row in ms by rows: 1: 10.00, 16: 3.00; the engine runs 16 rows, static 8.

| mix | load | server | images/s | ÷ one | p50 s | p95 s | p99 s | p50 ÷ | p95 ÷ |
|---|---|---|---|---|---|---|---|---|---|
| mixed steps | saturated | static batching | 10.00 | 2.00 | 1.0 | 2.0 | 3.0 | 1.00 | 1.00 |
| mixed steps | saturated | step-level engine | {rate} | 2.00 | 1.0 | 2.0 | 3.0 | 1.00 | 1.00 |
| mixed steps | 80% | static batching | 7.00 | 2.00 | 1.0 | 2.0 | 3.0 | 1.00 | 1.00 |
| mixed steps | 80% | step-level engine | 7.00 | 2.00 | 0.5 | {p95} | 3.0 | 0.50 | 0.60 |
"""


def test_what_the_engines_tables_miss_is_named_with_its_reason() -> None:
    met, missed = ENGINE.format(rate=10.0, p95=1.3), ENGINE.format(rate=9.8, p95=1.32)
    assert engine_misses(met) == []
    rate, p95 = engine_misses(met + missed)
    assert "table 2, mixed steps, saturated: images/s ÷ static batching 0.98, goal 1" in rate
    assert "8 of them are 2% of a full step of 48 ms" in rate
    assert "table 2, mixed steps, 80%: p95 ÷ static batching 0.66, goal 0.65" in p95
    assert "1.0 s in full batches without any waiting, of the 1.3 s measured" in p95


def test_the_engines_tables_are_read_as_they_are_written() -> None:
    assert max(steps for mix in MIXES for steps in mix.steps) == LONGEST
    text = (ROOT / "benchmarks" / "engine.md").read_text("utf-8")
    assert f"| {STATIC_ENGINE} |" in text
    assert f"| {OURS_ENGINE} |" in text
    engine_misses(text)


def test_a_miss_is_told_with_what_the_run_tells_of_its_reason(tmp_path: Path) -> None:
    results = made_up(tmp_path / "r.json")
    results.add("curve", "the stock pipeline", 0, images_per_s={"1": 8.0, "8": 12.0})
    for cell in results.cells:
        if cell["server"] == OURS and cell["kind"] in ("equal", "mixed"):
            cell["rate"] = 6.0
        if cell["server"] == OURS and cell["kind"] == "start":
            cell["by_kind"] = {"replica": 300, "ingress": 103}
    light = {"latencies_ms": [4.0], "errors": [], "rate": 1.0}
    results.add(
        "light", "1 pools, 1 ingress", 0,
        alone=[light], many=[light, light | {"rate": 2.0}], idle_cores=0.25, cold_s=1.0, pss_mb=1,
    )  # fmt: skip
    text = page(results, tmp_path / "picture.png")
    assert "| 1 pools, 1 ingress | 4.0 ± 0.0 | 2 ± 0 | 0.25 | 1 | 1 | 0 |" in text
    text = text.partition("## Where others are better")[2]
    assert "its curve ends at 1.50 times" in text
    assert "of 403 MB the model's process has 300" in text
    assert "All of that without a model: 4.0 ms" in text
    assert "throughput settings 6.0 ms stay" in text
    assert text.index("saturated, equal steps") < text.index("vLLM-Omni")


def test_the_page_says_what_grows_how(tmp_path: Path) -> None:
    results = made_up(tmp_path / "r.json")
    told = {"rate": 9.0, "latencies_ms": [5.0] * 19, "errors": []}
    failed = told | {"errors": ["HTTP 503"]}
    results.add("concurrency", OURS, 0, by_clients={"1": told, "512": failed})
    text = page(results, tmp_path / "picture.png")
    assert "64 requests in all by 1 and 8, 2 by each of 64 and 512" in text
    assert f"| {OURS} | 9.0/s, 5 ms | 9.0/s, ∞ ms, 1 errors |" in text


def test_what_is_slower_is_named_be_it_within_noise_or_no_goal(tmp_path: Path) -> None:
    results = made_up(tmp_path / "r.json")
    told, failed = {"rate": 9.0, "errors": []}, {"rate": 99.0, "errors": ["HTTP 503"]}
    results.add("concurrency", STATIC, 0, by_clients={"1": told, "512": told | {"rate": 18.0}})
    results.add("concurrency", OTHER, 0, by_clients={"1": failed, "512": failed})
    results.add("concurrency", OURS, 0, by_clients={"1": told | {"rate": 8.6}, "512": told})
    for cell in results.cells:  # in the one turn far slower, in the other a bit faster
        if cell["server"] == OURS and cell["kind"] == "load 95":
            cell["latencies_ms"] = [490.0 + 2000.0 * cell["turn"]] * 3
    for cell in results.cells:
        cell.setdefault("latencies_ms", [1.0])
        for one in cell.get("by_clients", {}).values():
            one.setdefault("latencies_ms", [1.0])
    text = page(results, tmp_path / "picture.png")
    assert "| BentoML | 2 × HTTP 503 |" in text.partition("and what failed")[2]
    text = text.partition("## Where others are better")[2].partition("\n## ")[0]
    assert "* 512 clients at once: 9.0 images/s, LitServe 18.0.\n" in text
    assert "1 clients at once" not in text, "within a twentieth, and what fails is no yardstick"
    assert (
        "95 % load, mixed steps: p50 ÷ best static batching's: 2.20 (0.98 to 4.97), goal 1," in text
    )
    assert "within noise. Near saturation" in text
    assert "80 % load" not in text


def test_the_latency_tables_ratios_are_the_goals(tmp_path: Path) -> None:
    results = made_up(tmp_path / "r.json")
    slow = next(c for c in results.of("load 80", OURS) if c["turn"] == 1)
    slow["latencies_ms"] = [2000.0] * 3
    text = page(results, tmp_path / "picture.png")
    goal = found(results)["80 % load, mixed steps: p95 ÷ best static batching's"].measured
    assert goal is not None
    (row,) = (line for line in text.splitlines() if line.startswith(f"| 80 % | {OURS} |"))
    assert row.split(" | ")[-2] == f"{goal.mean:.2f}"
    assert "in the same turn: 10.0, 10.0 images/s" in text


def test_the_batch_curve_is_shown_by_its_gain(tmp_path: Path) -> None:
    results = made_up(tmp_path / "r.json")
    results.add("curve", "the stock pipeline", 0, images_per_s={"1": 8.0, "8": 20.0})
    text = page(results, tmp_path / "picture.png")
    assert "| pictures per call | 1 | 8 |" in text
    assert "| ÷ one | 1.00 | 2.50 |" in text


def test_capacity_is_the_best_static_batching_of_the_same_turn(tmp_path: Path) -> None:
    measurer = Measurer(made_up(tmp_path / "r.json"), Effort(), tmp_path, None)  # type: ignore[arg-type]
    assert (measurer.capacity(0), measurer.capacity(1)) == (10.0, 11.0)
    with pytest.raises(LookupError, match="in turn 2; run the part 'saturated' first"):
        measurer.capacity(2)


def test_all_peers_grow_and_every_client_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurer = Measurer(Results(tmp_path / "r.json"), Effort(), tmp_path, None)  # type: ignore[arg-type]
    kinds: dict[tuple[str, int], Sequence[str]] = {}
    monkeypatch.setattr(
        measurer, "_run", lambda who, turn, wanted: kinds.update({(who.name, turn): wanted})
    )
    for turn in (0, 1):
        for who in measurer.everyone(turn):
            measurer.saturated(who, turn)
    growing = {key for key, wanted in kinds.items() if {"concurrency", "size"} <= set(wanted)}
    assert growing == {(name, 0) for name in (*OTHERS, OURS, OURS_HAPROXY)}
    assert kinds[OURS_LEAN, 0] == ["start"]

    class Fake:
        async def closed_loop(self, orders: list[Order], clients: int) -> Outcome:
            return Outcome([float(len(orders))] * clients, seconds=1.0)

    monkeypatch.setattr(measurer, "_client", Fake())
    found = measurer._by_clients(CONCURRENCY)
    sent = {int(clients): cell["latencies_ms"][0] for clients, cell in found.items()}  # type: ignore[index]
    assert sent == {1: 64, 8: 64, 64: 128, 512: 1024}


def test_orders_and_arrivals_are_the_same_for_all() -> None:
    orders = mixed(1000, seed=3)
    assert orders == mixed(1000, seed=3)
    assert sum(order.steps == 4 for order in orders) / 1000 == pytest.approx(WEIGHTS[0], abs=0.05)
    due = arrivals(20, 50, seed=1)
    assert due == sorted(due)
    assert len(due) == 1000, "not by chance more or fewer: the load would be another"
    gaps = np.diff(due)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1), "as of a Poisson process"
    assert 49 < due[-1] < 50
    assert len(arrivals(0.001, 0.1, seed=1)) == 1
    assert arrivals(20, 50, seed=2) != due


def test_no_two_requests_have_the_same_prompt() -> None:
    first, second = Order(1).body, Order(1).body
    assert first.pop("prompt") != second.pop("prompt")
    assert first == second == {
        "seed": 1, "num_inference_steps": 8, "width": 64, "height": 64,
    }  # fmt: skip


def test_model_time_is_the_phases_or_the_pipelines() -> None:
    ours = "queue;dur=1.0, encode;dur=2, denoise;dur=3, decode;dur=4, total;dur=99"
    assert model_ms(ours) == 9
    assert model_ms("pipeline;dur=7.5") == 7.5
    with pytest.raises(KeyError):
        model_ms("other;dur=1")


def test_an_answer_counts_only_if_it_is_the_picture_asked_for() -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG")
    assert check_picture(out.getvalue(), 64) is None
    assert check_picture(out.getvalue(), 128) == "64×64 instead of 128×128"
    assert check_picture(b"{}", 64) == "no PNG"


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["ray::ServeReplica:imagine:Ingress"], "ingress"),
        (["ray::ServeReplica:imagine:cpu"], "replica"),
        (["/x/ray/dashboard/dashboard.py"], "dashboard and its agents"),
        (["/x/bin/python", "-m", "uvicorn"], "other"),
    ],
)
def test_processes_are_told_apart(command: list[str], kind: str) -> None:
    assert kind_of(command) == kind


async def test_the_batcher_batches_what_is_alike_and_passes_errors_on() -> None:
    batches: list[list[int]] = []

    def run(requests: Sequence[int]) -> list[int]:
        batches.append(list(requests))
        if 7 in requests:
            raise ValueError("seven")
        return [10 * request for request in requests]

    batcher = Batcher(run, lambda number: number % 2, most=2, collect_s=0.01)
    answers = await asyncio.gather(*map(batcher.ask, [1, 2, 3, 4, 5]))
    assert answers == [10, 20, 30, 40, 50]
    assert batches == [[1, 3], [2, 4], [5]]
    with pytest.raises(ValueError, match="seven"):
        await batcher.ask(7)
    assert await batcher.ask(8) == 80


def test_ours_is_measured_as_it_is_configured() -> None:
    (application,) = our_config()["applications"]
    assert application["import_path"] == "serve_app.app:build"
    assert application["args"]["pools"]["cpu"]["engine"] == {"threads": 1}


@pytest.mark.e2e
def test_a_real_server_is_started_driven_measured_and_gone(tmp_path: Path) -> None:
    module = "benchmarks.peers.servers.fastapi_server:batching"
    command = (sys.executable, "-m", "uvicorn", "--port", "8123", "--log-level", "error", module)
    with running(Contestant("batching", command, True), tmp_path / "log", 180) as server:
        orders = [Order(seed, steps) for seed in range(2) for steps in (1, 2)]
        outcome = asyncio.run(Client(URL).open_loop(orders, [0.0, 0.0, 0.05, 0.1]))
        assert outcome.errors == []
        assert len(outcome.latencies) == 4
        assert min(outcome.models) > 0
        pss, rss = server.memory_mb()
        assert 100 < pss <= rss
        assert server.count() >= 1
    assert not server.process.is_running()
    absent = (sys.executable, "-c", "raise SystemExit('no such thing')")
    with (
        pytest.raises(StartError, match="gone: ended with status 1: no such thing"),
        running(Contestant("gone", absent), tmp_path / "log", 30),
    ):
        pass
