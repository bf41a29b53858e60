"""A start's stages, each second counted once."""

from __future__ import annotations

import pytest

import deployments.startup
from deployments.startup import recording, stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is; tests move it on."""
    now = [100.0]
    monkeypatch.setattr(deployments.startup.time, "monotonic", lambda: now[0])
    return now


def test_time_in_an_inner_stage_counts_there_alone(clock: list[float]) -> None:
    with recording() as timeline:
        with stage("import"):
            clock[0] += 1
        with stage("load"):
            clock[0] += 2
            with stage("download"):
                clock[0] += 4
                with stage("warm_up"):
                    clock[0] += 8
            clock[0] += 16
        with stage("download"):
            clock[0] += 32
    assert timeline.seconds == {"import": 1, "download": 36, "load": 18, "warm_up": 8}
    assert timeline.total == 63
    # In the order in which they come, whichever ended first.
    assert str(timeline) == "import 1.0 s, download 36.0 s, load 18.0 s, warm_up 8.0 s"


def test_a_stage_that_fails_is_counted_and_the_error_rises(clock: list[float]) -> None:
    def fail() -> None:
        with stage("download"):
            clock[0] += 3
            raise OSError("gone")

    with recording() as timeline, pytest.raises(OSError, match="gone"):
        fail()
    assert timeline.seconds == {"download": 3}


def test_nothing_is_recorded_outside(clock: list[float]) -> None:
    with recording() as timeline:
        pass
    with stage("load"):
        clock[0] += 1
    assert timeline.seconds == {}
