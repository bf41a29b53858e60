"""The circuit breaker, by table: what happens when."""

from __future__ import annotations

import pytest

from serve_app.routing.breaker import Breaker, BreakerOptions, State


def make(**options: float) -> Breaker:
    return Breaker(BreakerOptions(**{"failures": 3, "open_s": 5, "max_open_s": 15, **options}))  # type: ignore[arg-type]


def opened(now: float = 2.0) -> Breaker:
    breaker = make()
    for second in (now - 2, now - 1, now):
        breaker.failed(second)
    return breaker


@pytest.mark.parametrize(
    ("events", "now", "state"),
    [
        ([], 0, "closed"),
        (["f0", "f1"], 1, "closed"),
        (["f0", "f1", "f2"], 2, "open"),
        (["f0", "f1", "f2"], 6.9, "open"),
        (["f0", "f1", "f2"], 7, "half_open"),
        (["f0", "f1", "s", "f2"], 2, "closed"),  # in a row, or it does not count
        (["f0", "f0.1", "f0.2", "f0.3"], 1, "closed"),  # one replica died with four requests
        (["f0", "f1", "f2", "f3"], 7, "half_open"),  # a straggler changes nothing
        (["f0", "f1", "f2", "f8"], 17.9, "open"),  # the probe failed: twice as long
        (["f0", "f1", "f2", "f8"], 18, "half_open"),
        (["f0", "f1", "f2", "f8", "f18", "f33"], 47.9, "open"),  # never longer than max_open_s
        (["f0", "f1", "f2", "f8", "f18", "f33"], 48, "half_open"),
        (["f0", "f1", "f2", "s"], 8, "closed"),
        (["f0", "f1", "f2", "s", "f9", "f10"], 10, "closed"),  # counted afresh
        (["f0", "f1", "f2", "f8", "s", "f20", "f21", "f22"], 27, "half_open"),  # 5 s again
    ],
)
def test_state(events: list[str], now: float, state: State) -> None:
    breaker = make()
    for event in events:
        if event == "s":
            breaker.succeeded()
        else:
            breaker.failed(float(event[1:]))
    assert breaker.state(now) == state
    assert breaker.holds(now) == (state != "closed")


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    assert not breaker.wants_probe(3.0)
    assert breaker.wants_probe(8.0)
    breaker.begin_probe()
    assert not breaker.wants_probe(8.0)
    breaker.end_probe()
    assert breaker.wants_probe(8.0)
    breaker.succeeded()
    assert not breaker.wants_probe(8.0)
