"""The autoscaling policy's promises to Serve: it never raises, never blocks, never forgets."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.autoscaling.policy import AutoscalingPolicy, changes
from serve_app.autoscaling.presence import Seen

ALL = frozenset({"cpu", "cuda", "neuron"})


class FakeBoard:
    """A board in memory."""

    def __init__(self, *reports: dict[str, Any]) -> None:
        self.words = list(reports)
        self.decided: dict[str, Any] | None = None

    def reports(self) -> list[dict[str, Any]]:
        return self.words

    def decide(self, decision: Mapping[str, Any]) -> None:
        self.decided = dict(decision)

    def decision(self) -> dict[str, Any] | None:
        return self.decided


def context(current: int, target: int) -> SimpleNamespace:
    return SimpleNamespace(current_num_replicas=current, target_num_replicas=target)


def test_a_pool_that_stays_at_zero_is_not_named() -> None:
    ids = {name: SimpleNamespace(name=name) for name in ("gpu", "neuron", "cpu", "other")}
    key = {name: _Id(name) for name in ids}
    contexts: dict[Any, Any] = {
        key["gpu"]: context(0, 0),
        key["neuron"]: context(0, 1),
        key["cpu"]: context(1, 1),
        key["other"]: context(2, 2),
    }
    found = changes(contexts, {"gpu": 0, "neuron": 0, "cpu": 1})
    assert {i.name: n for i, n in found.items()} == {"neuron": 0, "cpu": 1}


class _Id:
    def __init__(self, name: str) -> None:
        self.name = name


RAW = {"gpu": {"accelerator": "x", "framework": "cuda", "resources": {"num_gpus": 1}}}


def call_until(policy: AutoscalingPolicy, contexts: dict[Any, Any]) -> dict[Any, int]:
    for _ in range(200):
        found, _state = policy(contexts)
        if found:
            return found
        time.sleep(0.01)
    return {}


def test_policy_names_what_the_thread_saw() -> None:
    policy = AutoscalingPolicy(
        RAW, board=FakeBoard(), look=lambda: Seen([{"CPU": 4.0, "GPU": 2.0}], ALL), poll_s=0.01
    )
    gpu = _Id("gpu")
    assert call_until(policy, {gpu: context(0, 0)}) == {gpu: 1}  # max_replicas is 1


def test_policy_never_blocks() -> None:
    release, looks = threading.Event(), []

    def stuck() -> Seen:
        looks.append(1)
        if len(looks) > 1:
            release.wait(10)
        return Seen([{"CPU": 1.0, "GPU": 1.0}], ALL)

    gpu = _Id("gpu")
    policy = AutoscalingPolicy(RAW, board=FakeBoard(), look=stuck, poll_s=0.01)
    began = time.monotonic()
    assert policy({gpu: context(1, 1)})[0] in ({}, {gpu: 1})
    assert call_until(policy, {gpu: context(1, 1)}) == {gpu: 1}
    for _ in range(20):
        assert policy({gpu: context(1, 1)})[0] == {gpu: 1}
    assert time.monotonic() - began < 5
    release.set()


def test_policy_never_raises_and_complains_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Seen:
        raise OSError("no GCS")

    policy = AutoscalingPolicy(RAW, board=FakeBoard(), look=broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            policy.poll()
            assert policy({_Id("gpu"): object()}) == ({}, {})
    assert [r for r in caplog.records if "no GCS" in r.message][1:] == []
    assert "no GCS" in caplog.text


@pytest.mark.parametrize("before", [None, {"at": 7.0, "faults": 0, "pools": {"gpu": {}}}])
def test_faults_show_while_they_last(before: dict[str, Any] | None) -> None:
    """On the board from the first, with the last decision and its time as they were."""

    def broken() -> Seen:
        raise OSError("no GCS")

    board = FakeBoard()
    board.decided = before
    policy = AutoscalingPolicy(RAW, board=board, look=broken)
    shown = []
    for _ in range(3):
        policy.poll()
        assert board.decided is not None
        shown.append(board.decided)
    assert [told["faults"] for told in shown] == [1, 2, 3]
    last = before or {"at": 0.0, "pools": {}}
    assert all((told["at"], told["pools"]) == (last["at"], last["pools"]) for told in shown)


@pytest.mark.parametrize("raw", [{"gpu": {"framework": "tpu"}}, {"gpu": 3}])
def test_a_policy_that_cannot_begin_tells_of_it(raw: Any) -> None:
    board = FakeBoard()
    AutoscalingPolicy(raw, board=board, look=lambda: Seen([], ALL)).poll()
    assert board.decided == {"at": 0.0, "pools": {}, "faults": 1}


def test_a_board_that_cannot_be_reached_is_no_second_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Gone(FakeBoard):
        def decide(self, decision: Mapping[str, Any]) -> None:
            raise OSError("no store")

    policy = AutoscalingPolicy(RAW, board=Gone(), look=lambda: Seen([], ALL))
    policy.poll()
    assert policy.faults == 1
    assert "no store" in caplog.text


@pytest.mark.parametrize("raw", [None, {}, {"gpu": {"framework": "tpu"}}, {"gpu": 3}])
def test_policy_with_bad_pools_holds_every_count(
    raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    policy = AutoscalingPolicy(raw, board=FakeBoard(), look=lambda: Seen([], ALL))
    policy.poll()
    assert policy({_Id("gpu"): context(1, 1)}) == ({}, {})
    assert "stays as it is" in caplog.text


def test_a_failed_look_keeps_the_last_decision() -> None:
    answers = [Seen([{"CPU": 1.0, "GPU": 1.0}], ALL)]
    policy = AutoscalingPolicy(RAW, board=FakeBoard(), look=lambda: answers.pop(), poll_s=60)
    policy.poll()
    policy.poll()
    gpu = _Id("gpu")
    assert policy({gpu: context(1, 1)})[0] == {gpu: 1}


def test_a_broken_context_is_survived() -> None:
    policy = AutoscalingPolicy(RAW, board=FakeBoard(), look=lambda: Seen([], ALL), poll_s=60)
    policy.poll()
    assert policy({object(): object()}) == ({}, {})


def test_module_needs_nothing_of_ours_at_import() -> None:
    # Serve carries the class by value into its controller.
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, serve_app.autoscaling.policy\n"
            "print(*(name for name in sys.modules if name.split('.')[0] in"
            " ('serve_app', 'deployments', 'compile')))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    # Its own packages, which hold nothing, and itself.
    assert found.stdout.split() == [
        "serve_app",
        "serve_app.autoscaling",
        "serve_app.autoscaling.policy",
    ]


def test_a_policy_that_serve_has_dropped_stops_deciding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.autoscaling.policy._FORGOTTEN_S", 0.1)
    looks = []

    def look() -> Seen:
        looks.append(1)
        return Seen([{"CPU": 1.0, "GPU": 1.0}], ALL)

    policy = AutoscalingPolicy(RAW, board=FakeBoard(), look=look, poll_s=0.01)
    gpu = _Id("gpu")
    assert call_until(policy, {gpu: context(1, 1)}) == {gpu: 1}
    time.sleep(0.4)
    before = len(looks)
    time.sleep(0.1)
    assert len(looks) == before
    policy({gpu: context(1, 1)})  # it is asked again after all
    time.sleep(0.1)
    assert len(looks) > before
