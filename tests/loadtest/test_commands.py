"""``python -m loadtest`` against a stand-in over real HTTP: files, exit statuses, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from loadtest.__main__ import main
from loadtest.exits import Exit
from loadtest.outcome import Outcome
from serve_app.live import LiveSettings
from serve_app.validation import parse
from tests.loadtest.stand_in import StandIn, standing_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quick() -> Iterator[StandIn]:
    with standing_in(StandIn({"a": 0.01, "b": 0.02})) as running:
        yield running


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_load_is_sent_reported_recorded_and_replayed(quick: StandIn, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    common = f"--url {quick.url} --out {tmp_path}"
    status = main(
        f"run {common} --shape constant --rate 40 --duration 1 --record {trace}"
        ' --body {"num_inference_steps":3}'.split()
    )
    assert status == Exit.DONE
    first = list(quick.bodies)
    assert len(first) == 40
    assert len({body["seed"] for body in first}) == 40
    assert len({body["prompt"] for body in first}) == 40
    assert all(body["num_inference_steps"] == 3 for body in first)
    report = read(tmp_path / "report.json")
    assert (report["planned"], report["sent"], report["pictures"]) == (40, 40, 40)
    assert {name: pool["share"] for name, pool in report["pools"].items()} == {"a": 0.5, "b": 0.5}
    assert report["offered_per_s"] == 40
    assert not report["partial"]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")

    quick.bodies.clear()
    status = main(f"run {common} --shape replay --trace {trace} --pool b".split())
    assert status == Exit.DONE
    assert sorted(quick.bodies, key=lambda body: body["seed"]) == [
        {**body, "pool": "b"} for body in sorted(first, key=lambda body: body["seed"])
    ]
    assert read(tmp_path / "report.json")["pools"]["b"]["share"] == 1.0
    # Longer than the trace is: nothing more is due, and the rate is what it was.
    status = main(f"run {common} --shape replay --trace {trace} --duration 60".split())
    assert status == Exit.DONE
    assert read(tmp_path / "report.json")["offered_per_s"] == pytest.approx(40, rel=0.1)


def test_errors_are_counted_by_kind_and_end_in_their_own_status(tmp_path: Path) -> None:
    with standing_in(StandIn({"a": 0.01}, fails=4)) as running:
        status = main(
            f"run --url {running.url} --shape constant --rate 40 --duration 1"
            f" --out {tmp_path}".split()
        )
    assert status == Exit.SOME_FAILED
    report = read(tmp_path / "report.json")
    assert report["errors"] == {"429 overloaded": 10}
    assert (report["pictures"], report["failed"]) == (30, 10)


def test_the_work_for_a_request_does_not_grow_with_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []
    ok = Outcome.ok.fget
    monkeypatch.setattr(Outcome, "ok", property(lambda one: (looks.append(one), ok(one))[1]))
    with standing_in(StandIn({"a": 0.0, "b": 0.0})) as running:
        main(f"run --url {running.url} --shape constant --rate 400 --duration 0.5".split())
        assert len(running.bodies) == 200
    assert 200 <= len(looks) <= 10 * 200


def test_a_request_that_takes_too_long_is_a_timeout(tmp_path: Path) -> None:
    with standing_in(StandIn({"a": 2.0})) as running:
        status = main(
            f"run --url {running.url} --shape constant --rate 4 --duration 0.5 --timeout 0.2"
            f" --out {tmp_path}".split()
        )
    assert status == Exit.SOME_FAILED
    assert read(tmp_path / "report.json")["errors"] == {"timeout": 2}


@pytest.mark.parametrize("command", ["run --rate 1 --duration 1", "breaking-point"])
def test_a_service_that_is_not_there_has_its_own_status(command: str, tmp_path: Path) -> None:
    assert main(f"{command} --url http://127.0.0.1:9 --out {tmp_path}".split()) == Exit.UNREACHABLE


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run --duration 1", ["--rate", "missing"]),
        ("run --rate 1", ["--duration", "missing"]),
        ("run --rate -1 --duration 1", ["--rate", "-1", "above 0"]),
        ("run --shape replay", ["--trace", "missing"]),
        ("run --shape replay --trace /nowhere/at.jsonl", ["/nowhere/at.jsonl"]),
        ("run --rate 1 --duration 1 --body []", ["--body", "object"]),
        ("run --rate 1 --duration 1 --url localhost", ["--url", "http://"]),
        ("breaking-point --percentile 100", ["--percentile", "below 100"]),
        ("breaking-point --side-by-side 0", ["--side-by-side", "at least 1"]),
        ("", ["COMMAND"]),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == Exit.USAGE
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


def test_an_unknown_pool_is_refused(quick: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(f"breaking-point --url {quick.url} --pools a,c".split())
    assert caught.value.code == Exit.USAGE
    assert "'c'; ready are: a, b" in capsys.readouterr().err


def test_a_dashboard_that_is_none_is_told_before_anything_is_measured(
    quick: StandIn, tmp_path: Path
) -> None:
    status = main(
        f"breaking-point --url {quick.url} --minutes 0.05 --apply --dashboard {quick.url}/elsewhere"
        f" --out {tmp_path}".split()
    )
    assert status == Exit.NOT_APPLIED
    assert quick.bodies == []


def test_break_points_over_http_become_files_that_the_service_takes(tmp_path: Path) -> None:
    """How long a picture takes here decides nothing; that everything is told does."""
    pools = StandIn({"a": 0.05, "b": 0.1, "c": 0.1}, absent=frozenset("c"))
    with standing_in(pools) as running:
        status = main(
            f"breaking-point --url {running.url} --slo-ms 5000 --minutes 0.15"
            f" --side-by-side 2 --seed 1000 --out {tmp_path}".split()
        )
        assert status == Exit.DONE
        assert {body["pool"] for body in running.bodies} == {"a", "b"}
        for pool in ("a", "b"):
            seeds = sorted(body["seed"] for body in running.bodies if body["pool"] == pool)
            assert seeds == list(range(1000, 1000 + len(seeds)))
    result = read(tmp_path / "breaking-point.json")
    assert set(result["pools"]) == {"a", "b"}
    assert "c: no ready replica, not measured; its weight and profile stay" in result["problems"]
    for one in result["pools"].values():
        bounds = one["capacity"]
        assert 0 < bounds["low"] <= bounds["value"] <= bounds["high"]
        assert len(one["curve"]) >= 3
    written = yaml.safe_load((tmp_path / "user_config.yaml").read_text(encoding="utf-8"))
    live = parse(LiveSettings, written, what="user_config")
    assert live.weights["a"] + live.weights["b"] == 100
    assert live.weights["c"] == 50.0
    assert live.slo_s == 5.0
    assert live.prices == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert live.profiles["a"].images_per_minute == pytest.approx(
        result["pools"]["a"]["capacity"]["value"], abs=0.01
    )


def test_what_pools_shows_of_a_pool_not_measured_stays_in_the_file(tmp_path: Path) -> None:
    known = {"latency_s": 0.5, "images_per_minute": 90.0}
    too_slow = {"latency_s": 9.0, "images_per_minute": 0.0}
    pools = StandIn(
        {"a": 0.05, "b": 0.1, "c": 9.0},
        config={"profiles": {"a": known, "b": known, "c": too_slow}},
    )
    with standing_in(pools) as running:
        status = main(
            f"breaking-point --url {running.url} --pools a --slo-ms 5000 --minutes 0.08"
            f" --out {tmp_path}".split()
        )
    assert status == Exit.DONE
    written = yaml.safe_load((tmp_path / "user_config.yaml").read_text(encoding="utf-8"))
    live = parse(LiveSettings, written, what="user_config")
    # A rate of 0 is no setting: it stays the calibration's.
    assert set(live.profiles) == {"a", "b"}
    assert written["profiles"]["b"] == known
    assert written["profiles"]["a"] != known
    assert live.weights == {"a": 50.0, "b": 50.0, "c": 50.0}


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("weighted", None),
        ("cost", "it makes its shares of profiles and prices"),
        ("latency", "traffic will NOT follow the proposed weights"),
    ],
)
def test_settings_are_applied_and_who_shares_is_said(
    policy: str, words: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"policy": policy, "prices": {"a": 1.0, "b": 1.0}, "failover": {"leave_after_s": 4}}
    with standing_in(StandIn({"a": 0.02, "b": 0.04}, config=config)) as running:
        status = main(
            f"breaking-point --url {running.url} --slo-ms 5000 --minutes 0.08 --side-by-side 2"
            f" --apply --dashboard {running.url} --out {tmp_path}".split()
        )
    assert status == Exit.DONE
    changes = read(tmp_path / "breaking-point.json")["user_config_changes"]
    assert running.config == {**config, **changes}
    assert running.config["weights"]["a"] > running.config["weights"]["b"]
    said = " ".join(capsys.readouterr().err.split())
    assert "applied: /pools shows the new weights and profiles" in said
    # Before the minutes are spent, and again at the end.
    assert said.count(words or "policy is") == (0 if words is None else 2)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("run --rate 20 --duration 600", "report"),
        ("breaking-point --minutes 30", "breaking-point"),
    ],
)
def test_ctrl_c_leaves_a_partial_report(command: str, file: str, tmp_path: Path) -> None:
    with standing_in(StandIn({"a": 0.02})) as running:
        process = subprocess.Popen(
            f"{sys.executable} -m loadtest {command} --url {running.url} --out {tmp_path}".split(),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        end = time.monotonic() + 60
        while len(running.bodies) < 20:
            assert time.monotonic() < end
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, wrong = process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED, wrong
    assert "Traceback" not in wrong
    told = read(tmp_path / f"{file}.json")
    assert told["partial"] is True
    if file == "report":
        assert "PARTIAL" in said
        assert told["planned"] == pytest.approx(12_000, rel=0.1)
        assert 0 < told["pictures"] <= told["sent"] < 12_000
        assert told["sent"] == told["pictures"] + told["failed"] + told["interrupted"]
    else:
        assert told["pools"]["a"]["limited_by"] == "interrupted"
