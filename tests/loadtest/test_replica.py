"""One replica: shared steps, a queue, sudden death; and the queueing formula it must follow."""

from __future__ import annotations

import pytest
from simpy import Environment

from loadtest.simulator.arrivals import Poisson
from loadtest.simulator.replica import Phase, Replica
from loadtest.simulator.request import Request
from serve_app.routing.speed import Speed
from serve_app.routing.work import Work
from tests.loadtest.worlds import pool, report, scenario

SPEED = Speed({2: 100.0, 4: 150.0}, max_rows=4)


class Home:
    def __init__(self) -> None:
        self.queued = 0.0
        self.done: list[tuple[Request, float]] = []
        self.gone: list[float] = []

    def answered(self, request: Request, now: float) -> None:
        self.done.append((request, round(now, 9)))

    def drained(self, replica: Replica, now: float) -> None:
        self.gone.append(round(now, 9))


class Bench:
    """A replica and requests at given times."""

    def __init__(self, *asked: tuple[float, Work]) -> None:
        self.env = Environment()
        self.home = Home()
        self.replica = Replica(
            self.env, self.home, lambda rows: SPEED.step_ms(rows) / 1000, SPEED.max_rows
        )
        self.requests = [Request(work, at) for at, work in asked]
        for request in self.requests:
            self.at(request.arrived_s, lambda r=request: self.replica.take(r, self.env.now))

    def at(self, when: float, act) -> None:
        self.env.timeout(when).callbacks.append(lambda _: act())

    def finished(self) -> list[float]:
        self.env.run()
        when = {id(request): at for request, at in self.home.done}
        assert len(when) == len(self.home.done)
        return [when[id(request)] for request in self.requests]


ONE = Work(2, 10)


@pytest.mark.parametrize(
    ("asked", "finished"),
    [
        ([(0, ONE)], [1.0]),
        # Five steps alone, five together; then the second does five alone.
        ([(0, ONE), (0.5, ONE)], [1.25, 1.75]),
        # The third waits for a place and rides with the second.
        ([(0, ONE), (0.5, ONE), (0.6, ONE)], [1.25, 2.0, 2.5]),
        # Equal ones leave together, and the queue enters together.
        ([(0, ONE)] * 4, [1.5, 1.5, 3.0, 3.0]),
        # A short one overtakes within the batch, none overtakes in the queue.
        ([(0, ONE), (0, Work(2, 2)), (0, Work(4, 2)), (0, Work(1, 1))], [1.1, 0.3, 1.4, 1.5]),
        # Nor does one that would fit.
        ([(0, ONE), (0, Work(4, 2)), (0, Work(1, 1))], [1.0, 1.3, 1.4]),
        # Larger than the batch: alone, at the cost of its rows.
        ([(0, Work(8, 10)), (0, ONE)], [3.0, 4.0]),
        # An idle replica starts afresh.
        ([(0, ONE), (7.25, ONE)], [1.0, 8.25]),
    ],
)
def test_batch_and_queue(asked: list[tuple[float, Work]], finished: list[float]) -> None:
    bench = Bench(*asked)
    assert bench.finished() == pytest.approx(finished)
    assert bench.home.queued == 0
    assert bench.replica.ongoing == 0


def test_waiting_work_is_counted() -> None:
    bench = Bench((0, ONE), (0, ONE), (0.1, Work(3, 7)))
    bench.env.run(until=0.2)
    assert bench.home.queued == 21
    assert bench.replica.ongoing == 3


def test_a_killed_replica_gives_back_everything_in_order_and_answers_nothing() -> None:
    bench = Bench((0, ONE), (0.1, Work(2, 2)), (0.2, ONE), (0.3, ONE))
    lost: list[Request] = []
    bench.at(0.35, lambda: lost.extend(bench.replica.kill()))
    bench.env.run()
    assert lost == bench.requests
    assert bench.home.done == []
    assert bench.home.queued == 0


def test_a_draining_replica_says_when_it_is_empty() -> None:
    bench = Bench((0, ONE), (0.5, ONE))
    bench.at(0.6, lambda: setattr(bench.replica, "phase", Phase.DRAINING))
    bench.env.run()
    assert bench.home.gone == [1.75]


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_mean_wait_follows_pollaczek_and_khinchine(load: float) -> None:
    service_s, pictures = 0.5, 150_000
    rate = load / service_s
    made = scenario(
        pool(seconds=service_s, max_replicas=1),
        arrivals=Poisson(rate),
        duration_s=pictures / rate,
    )
    mean_s = report(made).mean_s
    assert mean_s is not None
    expected = load * service_s / (2 * (1 - load))
    assert mean_s - service_s == pytest.approx(expected, rel=0.05)
