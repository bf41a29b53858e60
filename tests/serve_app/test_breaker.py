"""The circuit breaker, by table: what happens when."""

from __future__ import annotations

import pytest

from serve_app.routing.breaker import Breaker, BreakerOptions, State


def make(**options: float) -> Breaker:
    return Breaker(BreakerOptions(**{"failures": 3, "open_s": 5, "max_open_s": 15, **options}))  # type: ignore[arg-type]


def opened(now: float = 2.0) -> Breaker:
    breaker = make()
    for second in (now - 2, now - 1, now):
        breaker.failed(second, second)
    return breaker


@pytest.mark.parametrize(
    ("events", "now", "state"),
    [
        ([], 0, "closed"),
        (["f0", "f1"], 1, "closed"),
        (["f0", "f1", "f2"], 2, "open"),
        (["f0", "f1", "f2"], 6.9, "open"),
        (["f0", "f1", "f2"], 7, "half_open"),
        (["f0", "f1", "s1", "f2"], 2, "closed"),  # in a row, or it does not count
        (["f0", "f0.1", "f0.2", "f0.3"], 1, "closed"),  # one replica died with four requests
        (["f0", "f1", "f2", "f3"], 7, "half_open"),  # a straggler changes nothing
        (["f0", "f1", "f2", "s1"], 8, "half_open"),  # sent before it opened: says nothing
        (["f0", "f1", "f2", "f8<1"], 8, "half_open"),  # nor does that: it was not the probe
        (["f0", "f1", "f2", "f8"], 17.9, "open"),  # the probe failed: twice as long
        (["f0", "f1", "f2", "f8"], 18, "half_open"),
        (["f0", "f1", "f2", "f8", "f18", "f33"], 47.9, "open"),  # never longer than max_open_s
        (["f0", "f1", "f2", "f8", "f18", "f33"], 48, "half_open"),
        (["f0", "f1", "f2", "s3"], 8, "closed"),
        (["f0", "f1", "f2", "s8", "f9", "f10"], 10, "closed"),  # counted afresh
        (["f0", "f1", "f2", "f8", "s19", "f20", "f21", "f22"], 27, "half_open"),  # 5 s again
    ],
)
def test_state(events: list[str], now: float, state: State) -> None:
    breaker = make()
    for event in events:
        kind, (at, _, sent) = event[0], event[1:].partition("<")
        if kind == "s":
            breaker.succeeded(float(at))
        else:
            breaker.failed(float(at), float(sent or at))
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
    breaker.succeeded(8.0)
    assert not breaker.wants_probe(8.0)


def test_new_replicas_start_with_a_clean_slate() -> None:
    breaker = opened()
    breaker.reset()
    assert breaker.state(3.0) == "closed"
    breaker.failed(4.0, 4.0)
    assert breaker.state(4.0) == "closed"
