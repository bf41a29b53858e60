"""A poisoned request fails alone; a broken device fails its batch and says so."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from tests.deployments.harness import Bench, FakeBackend, ask, solo


@pytest.fixture
def bench() -> Bench:
    return Bench(FakeBackend(), max_rows=4)


def test_cancelled_request_frees_its_rows_at_the_next_step(bench: Bench) -> None:
    first, second, third = (ask(num_inference_steps=10, seed=i) for i in range(3))
    job = bench.submit(first)
    bench.submit(second)
    bench.submit(third)
    bench.engine.step()
    assert (bench.engine.rows, bench.engine.waiting) == (4, 1)
    job.cancelled = True
    bench.engine.step()
    assert (bench.engine.rows, bench.engine.waiting) == (4, 0)
    bench.run()
    assert bench.failure(first).message == "cancelled"
    assert bench.picture(third) == solo(FakeBackend(), third)[1]


def test_cancelled_while_waiting_for_the_decoder(bench: Bench) -> None:
    short, long = ask(num_inference_steps=1), ask(num_inference_steps=9)
    job = bench.submit(short)
    bench.submit(long)
    bench.engine.step()
    assert not bench.answers[short.request_id]
    job.cancelled = True
    bench.run()
    assert bench.failure(short).message == "cancelled"
    assert bench.picture(long)


def test_not_a_number_fails_alone(bench: Bench) -> None:
    bad, good = ask(prompt="nan"), ask(prompt="fine")
    bench.submit(bad)
    bench.submit(good)
    bench.run()
    assert bench.failure(bad).code == "generation_failed"
    assert not bench.failure(bad).retryable
    assert bench.picture(good) == solo(FakeBackend(), good)[1]
    assert bench.engine.fault is None


def test_scheduler_exception_fails_alone(bench: Bench) -> None:
    bad, good = ask(), ask(seed=2)
    job = bench.submit(bad)
    bench.submit(good)

    def explode(*_: Any, **__: Any) -> None:
        raise ArithmeticError("step")

    job.path.scheduler.step = explode
    bench.run()
    assert bench.failure(bad).code == "generation_failed"
    assert bench.picture(good) == solo(FakeBackend(), good)[1]


def test_model_input_exception_fails_alone(bench: Bench) -> None:
    bad, good = ask(), ask(seed=2)
    job = bench.submit(bad)
    bench.submit(good)

    def explode(*_: Any, **__: Any) -> None:
        raise ArithmeticError("scale")

    job.path.scheduler.scale_model_input = explode
    bench.run()
    assert bench.failure(bad).code == "generation_failed"
    assert bench.picture(good) == solo(FakeBackend(), good)[1]
    assert bench.engine.fault is None


def test_device_exception_fails_the_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ask(), ask(num_inference_steps=9)
    bench.submit(first)
    bench.submit(second)
    bench.engine.step()

    def explode(_: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(bench.backend, "denoise", explode)
    bench.engine.step()
    for request in (first, second):
        failure = bench.failure(request)
        assert (failure.code, failure.retryable) == ("device_error", True)
    assert bench.engine.fault == "RuntimeError: CUDA error"
    assert not bench.engine.busy


def test_decode_exception_fails_its_batch_and_marks_the_device(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask()
    bench.submit(request)

    def explode(_: Any) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(bench.backend, "decode", explode)
    bench.run()
    failure = bench.failure(request)
    assert (failure.code, failure.retryable) == ("device_error", True)
    assert bench.engine.fault == "RuntimeError: CUDA error"


def test_deadline_passes_in_the_queue_and_on_the_way(bench: Bench) -> None:
    running = ask(num_inference_steps=50, deadline=time.time() + 0.2)
    late = ask(deadline=time.time() - 1)
    bench.submit(running)
    bench.submit(late)
    bench.engine.step()
    assert bench.failure(late).code == "deadline_exceeded"
    time.sleep(0.25)
    bench.engine.step()
    assert bench.failure(running).code == "deadline_exceeded"
    assert not bench.engine.busy


def test_fail_all_answers_everything_everywhere() -> None:
    bench = Bench(FakeBackend(), max_rows=2)
    finished = ask(num_inference_steps=1, guidance_scale=1.0)
    asked = [finished, *(ask(num_inference_steps=5) for _ in range(3))]
    for request in asked:
        bench.submit(request)
    bench.engine.fail_all("down")
    assert [bench.failure(r).message for r in asked] == ["down"] * 4
    assert not bench.engine.busy


def test_decodes_are_batched_and_deferred_but_not_for_ever() -> None:
    backend = FakeBackend(decode_batch=4)
    bench = Bench(backend, max_rows=8)
    for _ in range(4):
        bench.submit(ask(num_inference_steps=2, guidance_scale=1.0))
    long = ask(num_inference_steps=20, guidance_scale=1.0)
    lone = ask(num_inference_steps=3, guidance_scale=1.0)
    bench.submit(long)
    bench.submit(lone)
    bench.engine.step()
    bench.engine.step()
    assert backend.decodes == [4]
    for _ in range(5):
        bench.engine.step()
    assert backend.decodes == [4, 1]
    bench.run()
    assert backend.decodes == [4, 1, 1]


def test_too_few_rows_for_a_guided_request_are_refused_at_start() -> None:
    with pytest.raises(ValueError, match="max_rows"):
        Bench(FakeBackend(), max_rows=1)
