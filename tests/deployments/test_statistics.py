"""What a replica records of itself for autoscaling."""

from __future__ import annotations

import pytest

from deployments.engine.statistics import WINDOW_S, Statistics
from deployments.messages import Timings
from tests.deployments.harness import ask


def timings(total: float, queue: float) -> Timings:
    return Timings(queue=queue, encode=0, denoise=0, decode=0, total=total)


def test_work_is_rows_times_steps_by_pixels() -> None:
    statistics = Statistics(16 * 16)
    assert statistics.row_steps(ask(num_inference_steps=4)) == 8
    assert statistics.row_steps(ask(num_inference_steps=4, guidance_scale=1.0)) == 4
    assert statistics.row_steps(ask(num_inference_steps=4, width=32)) == 16
    assert statistics.row_steps(ask(num_inference_steps=10, strength=0.5)) == 10


def test_rates_waits_and_percentiles_of_the_window() -> None:
    statistics = Statistics(16 * 16)
    assert statistics.numbers(0.0) == {"work_arrived_per_s": 0.0, "work_done_per_s": 0.0}
    for second in range(20):
        statistics.arrived(ask(), float(second))
    for second in range(10):
        statistics.done(ask(), timings(1000.0 * (second + 1), 500.0), float(second))
    numbers = statistics.numbers(20.0)
    assert numbers["work_arrived_per_s"] == pytest.approx(20 * 8 / WINDOW_S)
    assert numbers["work_done_per_s"] == pytest.approx(10 * 8 / WINDOW_S)
    assert (numbers["queue_wait_s"], numbers["p50_s"], numbers["p95_s"]) == (0.5, 5.0, 10.0)
    assert statistics.numbers(100.0) == {"work_arrived_per_s": 0.0, "work_done_per_s": 0.0}
