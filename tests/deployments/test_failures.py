"""A poisoned request fails alone; a broken device fails its batch and says so."""

from __future__ import annotations

import threading
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
    short, long = ask(num_inference_steps=1), ask(num_inference_steps=3)
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


@pytest.mark.parametrize("method", ["scale_model_input", "step"])
def test_scheduler_exception_fails_alone(bench: Bench, method: str) -> None:
    bad, good = ask(), ask(seed=2)
    job = bench.submit(bad)
    bench.submit(good)

    def explode(*_: Any, **__: Any) -> None:
        raise ArithmeticError("broken")

    setattr(job.path.scheduler, method, explode)
    bench.run()
    assert bench.failure(bad).code == "generation_failed"
    assert "ArithmeticError: broken" in bench.failure(bad).message
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


def test_a_picture_that_cannot_be_delivered_is_answered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask()
    bench.submit(request)

    def explode(*_: Any) -> None:
        raise RuntimeError("shut down")

    monkeypatch.setattr(bench.engine._decoder, "_deliver", explode)
    bench.run()
    assert bench.failure(request).code == "device_error"


def test_a_picture_that_is_not_finite_fails_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = ask(seed=1), ask(seed=2)
    for request in (bad, good):
        bench.submit(request)
    plain = bench.backend.decode
    monkeypatch.setattr(bench.backend, "decode", lambda x: [None, *plain(x)[1:]])
    bench.run()
    assert bench.failure(bad).code == "generation_failed"
    assert bench.picture(good) == solo(FakeBackend(), good)[1]
    assert bench.engine.fault is None


def test_deadline_passes_in_the_queue_and_on_the_way(bench: Bench) -> None:
    running = ask(num_inference_steps=50, time_left_s=0.2)
    late = ask(time_left_s=-1)
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


@pytest.mark.parametrize(
    ("other_steps", "decodes"),
    [
        (3, [[], [], [2]]),  # company is due in two steps: wait for it
        (4, [[1], [1], [1]]),  # in three: do not
    ],
)
def test_a_finished_latent_waits_only_for_company_that_is_due(
    other_steps: int, decodes: list[list[int]]
) -> None:
    backend = FakeBackend(decode_batch=4)
    bench = Bench(backend, max_rows=8)
    bench.submit(ask(num_inference_steps=1))
    bench.submit(ask(num_inference_steps=other_steps))
    seen = []
    for _ in range(3):
        bench.engine.step()
        seen.append(list(backend.decodes))
    assert seen == decodes


def test_every_full_batch_is_decoded_before_the_next_step() -> None:
    backend = FakeBackend(decode_batch=2)
    bench = Bench(backend, max_rows=8)
    bench.submit(ask(num_inference_steps=2, guidance_scale=1.0))
    for _ in range(5):
        bench.submit(ask(num_inference_steps=1, guidance_scale=1.0))
    bench.engine.step()
    assert backend.decodes == [2, 2]


def test_larger_pictures_take_more_of_the_batch() -> None:
    backend = FakeBackend()
    bench = Bench(backend, max_rows=8, reference_pixels=16 * 16)
    large = [ask(width=32, height=16, num_inference_steps=2) for _ in range(3)]
    for request in large:
        bench.submit(request)
    bench.engine.step()
    assert (bench.engine.rows, bench.engine.waiting) == (4, 1)  # each counts as four rows
    bench.run()
    assert backend.decodes == [2, 1]  # half as many at once as of the reference size


def test_a_picture_larger_than_the_whole_batch_is_painted_alone() -> None:
    backend = FakeBackend()
    bench = Bench(backend, max_rows=4, reference_pixels=16 * 16)
    huge, small = ask(width=64, height=64, num_inference_steps=3), ask(num_inference_steps=2)
    bench.submit(huge)
    bench.submit(small)
    bench.engine.step()
    assert (bench.engine.rows, bench.engine.waiting) == (2, 1)
    bench.run()
    assert bench.picture(huge)
    assert bench.picture(small) == solo(FakeBackend(), small)[1]


class SlowDecoder(FakeBackend):
    """Decoding beside the steps, as long as the test wants."""

    def __init__(self) -> None:
        super().__init__(decode_batch=1)
        self.change(overlap_decode=True)
        self.release = threading.Event()
        self.broken = False

    def decode(self, latents: torch.Tensor) -> Any:
        assert self.release.wait(10)
        if self.broken:
            raise RuntimeError("CUDA error")
        return super().decode(latents)


def test_steps_go_on_while_a_picture_is_decoded_beside_them() -> None:
    backend = SlowDecoder()
    bench = Bench(backend, max_rows=8)
    short, long = ask(num_inference_steps=1), ask(num_inference_steps=6)
    bench.submit(short)
    bench.submit(long)
    for _ in range(6):
        bench.engine.step()
    assert len(backend.batches) == 6
    assert not bench.answers[short.request_id]
    backend.release.set()
    bench.run()
    assert bench.picture(short) == solo(FakeBackend(), short)[1]
    assert bench.picture(long) == solo(FakeBackend(), long)[1]


def test_decode_exception_beside_the_steps_marks_the_device() -> None:
    backend = SlowDecoder()
    backend.broken = True
    bench = Bench(backend)
    request = ask()
    bench.submit(request)
    backend.release.set()
    bench.run()
    assert bench.failure(request).code == "device_error"
    assert bench.engine.fault == "RuntimeError: CUDA error"


def test_too_few_rows_for_a_guided_request_are_refused_at_start() -> None:
    with pytest.raises(ValueError, match="max_rows"):
        Bench(FakeBackend(), max_rows=1)


class SmallDevice(FakeBackend):
    """Has memory for so many rows and pictures at once."""

    def __init__(self, *, rows: int = 99, pictures: int = 99, overlap: bool = False) -> None:
        super().__init__()
        self.change(overlap_decode=overlap)
        self.most_rows, self.most_pictures = rows, pictures

    def denoise(self, batch: Any) -> Any:
        if batch.latents.shape[0] > self.most_rows:
            raise torch.OutOfMemoryError("out of memory")
        return super().denoise(batch)

    def decode(self, latents: Any) -> Any:
        if latents.shape[0] > self.most_pictures:
            raise torch.OutOfMemoryError("out of memory")
        return super().decode(latents)


@pytest.mark.parametrize("overlap", [False, True])
def test_what_does_not_fit_the_memory_together_is_painted_in_parts(overlap: bool) -> None:
    bench = Bench(SmallDevice(rows=2, pictures=1, overlap=overlap), max_rows=8)
    requests = [ask(seed=seed) for seed in range(4)]
    for request in requests:
        bench.submit(request)
    bench.run()
    for request in requests:
        assert bench.picture(request) == solo(FakeBackend(), request)[1]
    assert bench.engine.fault is None
    bench.engine.close()


@pytest.mark.parametrize(("rows", "pictures"), [(1, 99), (99, 0)])
def test_what_does_not_fit_the_memory_alone_fails_alone(rows: int, pictures: int) -> None:
    bench = Bench(SmallDevice(rows=rows, pictures=pictures), max_rows=8)
    wide, narrow = ask(), ask(guidance_scale=1.0, num_inference_steps=9)
    bench.submit(wide)
    bench.submit(narrow)
    bench.run()
    failure = bench.failure(wide)
    assert (failure.code, failure.retryable) == ("generation_failed", False)
    assert "does not fit the device's memory" in failure.message
    assert bool(bench.answers[narrow.request_id])
    assert bench.engine.fault is None


def test_an_error_that_shows_when_a_value_is_read_loses_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(num_inference_steps=1, seed=seed) for seed in range(2)]
    for request in requests:
        bench.submit(request)

    def broken(*args: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch, "isfinite", broken)
    bench.run()
    for request in requests:
        assert bench.failure(request).code == "device_error"
        assert bench.failure(request).retryable
    assert bench.engine.fault is not None


def test_all_due_batches_are_decoded_beside_the_steps_before_the_next() -> None:
    backend = FakeBackend(decode_batch=2)
    backend.change(overlap_decode=True)
    bench = Bench(backend, max_rows=16)
    for seed in range(8):
        bench.submit(ask(num_inference_steps=1, guidance_scale=1.0, seed=seed))
    bench.submit(ask(num_inference_steps=50, guidance_scale=1.0))
    bench.engine.step()
    time.sleep(0.3)
    bench.engine.step()
    assert backend.decodes == [2, 2, 2, 2]
    bench.run()
    bench.engine.close()


def test_fail_all_answers_what_is_being_decoded_and_what_waits_for_it() -> None:
    let_go = threading.Event()

    class Stuck(FakeBackend):
        def decode(self, latents: Any) -> Any:
            let_go.wait(30)
            return super().decode(latents)

    backend = Stuck(decode_batch=1)
    backend.change(overlap_decode=True)
    bench = Bench(backend, max_rows=16)
    requests = [ask(num_inference_steps=1, seed=seed) for seed in range(3)]
    for request in requests:
        bench.submit(request)
    bench.engine.step()
    threading.Timer(0.2, let_go.set).start()
    bench.engine.fail_all("going down")
    kinds = sorted(type(bench.answers[request.request_id][0]).__name__ for request in requests)
    assert kinds == ["ImageFailure", "ImageFailure", "ImageResult"]
    assert all(len(bench.answers[request.request_id]) == 1 for request in requests)
    bench.engine.close()
