"""Fixed batch sizes, compiled and sized by memory: all of it on the CPU, the device injected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch._dynamo.utils import counters

from deployments.backends.bucketed import BucketedBackend
from deployments.backends.buckets import REGROW_CALLS, Buckets, doubling
from deployments.backends.compiled import Call, Compiled, inductor
from deployments.backends.cuda import create, default_dtype
from deployments.backends.graphs import CudaGraphs, replayed
from deployments.backends.memory import Line, Room, measure_room
from deployments.engine.calibration import measure_step_costs
from deployments.model import load_pipeline
from deployments.options import ReplicaOptions
from tests.deployments.conftest import MakeBackend
from tests.deployments.harness import Bench, ask, solo
from tests.deployments.test_inpainting import requests as repaintings
from tests.deployments.test_oracle import assert_same_picture, far, requests, stock
from tests.deployments.tiny_models import Kind

MIB = 2**20


class FakeMemory:
    """Memory of made-up size: ``fixed`` and so much for each row of the work last begun.

    The first call with so many rows takes twice as much, as cuDNN's search for an algorithm does.
    """

    def __init__(self, free: int = 1000 * MIB, fixed: int = 10 * MIB, each: int = 20 * MIB) -> None:
        self._free, self._fixed, self._each = free, fixed, each
        self.rows = 0
        self.releases = 0
        self._known: set[int] = set()
        self._factor = 1

    def free(self) -> int:
        return self._free

    def peak(self, work: Callable[[], object]) -> int:
        work()
        return self._factor * (self._fixed + self.rows * self._each)

    def release(self) -> None:
        self.releases += 1

    def work(self, rows: int) -> None:
        self.rows = rows
        self._factor = 1 if rows in self._known else 2
        self._known.add(rows)
        if self._fixed + rows * self._each > self._free:
            raise torch.OutOfMemoryError("out of memory")


def traced(call: Call) -> Call:
    """Traced and guarded as for inductor, but without code generation, which takes minutes."""
    compiled: Call = torch.compile(call, backend="eager", fullgraph=True, dynamic=False)
    return compiled


@pytest.fixture(autouse=True)
def _thaw() -> Iterator[None]:
    yield
    torch.compiler.set_stance("default")
    torch._dynamo.reset()


@pytest.fixture
def make(model_folder: Callable[[Kind], Path]) -> Callable[..., BucketedBackend]:
    def build(kind: Kind, **more: Any) -> BucketedBackend:
        settings: dict[str, Any] = {
            "device": torch.device("cpu"),
            "dtype": torch.float32,
            "most_rows": 4,
            "deterministic": False,
            "sizes": (),
            "memory": FakeMemory(),
            "compile_it": None,
        }
        pipe = load_pipeline(str(model_folder(kind)), None)
        return BucketedBackend(pipe, **(settings | more))

    return build


def test_doubling() -> None:
    assert doubling(1) == (1,)
    assert doubling(16) == (1, 2, 4, 8, 16)
    assert doubling(24) == (1, 2, 4, 8, 16, 24)


def values(first: int, count: int, size: int) -> torch.Tensor:
    return torch.arange(first, first + size)


def test_rows_run_in_as_few_parts_as_the_sizes_allow() -> None:
    buckets, seen = Buckets((1, 2, 4)), list[tuple[int, int, int]]()

    def run(*part: int) -> torch.Tensor:
        seen.append(part)  # type: ignore[arg-type]
        return values(*part)

    assert buckets.run(11, run).tolist() == list(range(11))
    assert seen == [(0, 4, 4), (4, 4, 4), (8, 3, 4)]
    assert [buckets.fit(rows) for rows in (1, 2, 3, 4, 9)] == [1, 2, 4, 4, 4]
    with pytest.raises(ValueError, match="sizes"):
        Buckets(())


def test_a_shortage_shrinks_the_sizes_and_calm_brings_them_back() -> None:
    releases: list[None] = []
    buckets = Buckets((1, 2, 4, 8), lambda: releases.append(None))
    fits = [4]

    def run(first: int, count: int, size: int) -> torch.Tensor:
        if size > fits[0]:
            raise torch.OutOfMemoryError("out of memory")
        return values(first, count, size)

    assert buckets.run(8, run).tolist() == list(range(8))
    assert buckets.sizes == (1, 2, 4)
    assert len(releases) == 2  # before the second try, and before the smaller one
    fits[0] = 8
    for _ in range(REGROW_CALLS):
        assert buckets.largest == 4 or _ == REGROW_CALLS - 1
        buckets.run(8, run)
    assert buckets.largest == 8
    assert buckets.run(8, run).tolist() == list(range(8))


def test_what_frees_itself_shrinks_nothing() -> None:
    freed: list[bool] = []
    buckets = Buckets((1, 2), lambda: freed.append(True))

    def run(first: int, count: int, size: int) -> torch.Tensor:
        if not freed:
            raise torch.OutOfMemoryError("cached elsewhere")
        return values(first, count, size)

    assert buckets.run(2, run).tolist() == [0, 1]
    assert buckets.sizes == (1, 2)


def test_what_fits_no_size_is_an_error() -> None:
    def run(*_: int) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    buckets = Buckets((1, 2))
    with pytest.raises(torch.OutOfMemoryError):
        buckets.run(2, run)
    assert buckets.sizes == (1,)


def test_lines() -> None:
    line = Line.through((1, 30), (2, 50))
    assert (line.fixed, line.each) == (10, 20)
    assert line.bytes(4) == 90
    assert line.most(95) == 4
    assert line.most(5) == 0
    # Two rows that seem to take no more than one are not believed.
    assert Line.through((1, 40), (2, 40)).each == 10


def measured(memory: FakeMemory, rows: int = 64, pictures: int = 8) -> Room:
    return measure_room(memory, memory.work, memory.work, most_rows=rows, most_pictures=pictures)


def test_rows_and_pictures_fit_the_free_memory_together() -> None:
    # 900 MiB to use: 8 pictures take 170, so that (900 - 170 - 10) / 20 rows are left.
    assert measured(FakeMemory()) == Room(rows=36, pictures=8)
    assert measured(FakeMemory(), rows=16) == Room(rows=16, pictures=8)
    # 90 MiB: a third of it decodes one picture.
    assert measured(FakeMemory(100 * MIB)) == Room(rows=2, pictures=1)


def test_where_two_do_not_fit_it_is_one_by_one() -> None:
    assert measured(FakeMemory(40 * MIB)) == Room(rows=1, pictures=1)


def test_a_model_that_leaves_no_room_is_refused_with_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"does not fit the .* smaller model"):
        measured(FakeMemory(20 * MIB))


def test_unknown_shapes_run_eagerly_and_known_ones_never_compile_again() -> None:
    counters.clear()
    seen: list[tuple[int, ...]] = []

    def call(x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            seen.append(tuple(x.shape))
        return x * 2 if y is None else x * y

    compiled = Compiled(call, traced)
    for rows in range(1, 11):  # more shapes than torch compiles by itself
        compiled.warm(torch.ones(rows), None)
    compiled.warm(torch.ones(2), torch.ones(2))
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 11
    assert len(compiled.shapes) == 11
    del seen[:]

    def elsewhere() -> None:
        for rows in range(1, 11):
            assert compiled(torch.ones(rows), None).tolist() == [2.0] * rows
        assert compiled(torch.ones(20), None).sum() == 40

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(20,)]
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize(("cost_ms", "kept"), [(0.0, True), (30.0, False)])
def test_a_recorded_graph_is_kept_where_it_pays(cost_ms: float, kept: bool) -> None:
    import time

    calls: list[str] = []

    def plain(x: torch.Tensor | None) -> torch.Tensor:
        assert x is not None
        time.sleep(0.005)
        calls.append("plain")
        return x + 1

    def record(call: Call, inputs: Any) -> Call:
        out = torch.zeros(3)

        def replay() -> None:
            time.sleep(cost_ms / 1000)
            calls.append("replay")
            out.copy_(inputs[0] + 1)

        return replayed(replay, inputs, out)

    compiled = Compiled(plain, None, record)
    compiled.warm(torch.zeros(3))
    del calls[:]
    one = compiled(torch.full((3,), 4.0))
    two = compiled(torch.full((3,), 5.0))
    assert (one.tolist(), two.tolist()) == ([5.0] * 3, [6.0] * 3)  # no shared output
    assert calls == (["replay"] * 2 if kept else ["plain"] * 2)


def test_what_cannot_be_recorded_runs_without(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(call: Call, inputs: Any) -> Call:
        raise RuntimeError("operation not permitted when stream is capturing")

    compiled = Compiled(torch.neg, None, refuse)
    compiled.warm(torch.zeros(3))
    assert compiled(torch.ones(3)).tolist() == [-1.0] * 3
    assert "not recorded, runs without: operation not permitted" in caplog.text


class FailingCapture:
    """``torch.cuda.graph`` whose end, too, fails once its body has."""

    def __init__(self, *args: Any, **more: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is not None:
            raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize(
    ("cause", "raised"),
    [(torch.OutOfMemoryError("2 GiB"), "2 GiB"), (RuntimeError("a sync"), "previous error")],
)
def test_a_shortage_while_recording_is_told_as_one(
    cause: RuntimeError, raised: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def call(x: torch.Tensor | None) -> torch.Tensor:
        assert x is not None
        calls.append(1)
        if len(calls) > 3:
            raise cause
        return x

    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr("torch.cuda.Stream", lambda device: MagicMock())
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: MagicMock())
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr("torch.cuda.CUDAGraph", MagicMock)
    monkeypatch.setattr("torch.cuda.graph", FailingCapture)
    with pytest.raises(type(cause), match=raised):
        CudaGraphs(torch.device("cuda", 0))(call, (torch.zeros(1),))
    assert len(calls) == 4  # three to warm up, one recorded


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_every_bucket_is_warm_and_serving_compiles_nothing(
    kind: Kind, make: Callable[..., BucketedBackend], make_backend: MakeBackend
) -> None:
    counters.clear()
    backend = make(kind, compile_it=traced, most_rows=2)
    assert [key[0] for key in backend.unet.shapes] == [(n, 4, 8, 8) for n in (2, 1)]
    assert [key[0] for key in backend.vae.shapes] == [(n, 4, 8, 8) for n in (4, 2, 1)]
    assert (backend.facts.max_rows, backend.facts.decode_batch) == (2, 4)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 5
    torch.compiler.set_stance("default")  # else what would be compiled runs eagerly, unseen
    measure_step_costs(backend, 16, 16, 2)

    plain = make_backend(kind)
    # Image-to-image, mixed step counts and schedulers, and a size that is not compiled for.
    asked = [*requests(kind)[::2], ask(width=24, scheduler="euler")]
    bench = Bench(backend, max_rows=7)

    def serve() -> None:
        for request in asked:
            bench.submit(request)
            bench.engine.step()
        bench.run()

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    bench.engine.close()
    for request in asked:
        latents, pixels = stock(plain, request)
        assert far(bench.latents[request.request_id], latents) <= 1e-4, request
        assert_same_picture(bench.picture(request), pixels, request)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize("kind", ["inpaint", "xl_inpaint"])
def test_a_mask_conditioned_unet_has_its_graphs_too(
    kind: Kind, make: Callable[..., BucketedBackend], make_backend: MakeBackend
) -> None:
    """Nine channels in, four out; the decoder sees four."""
    backend = make(kind, compile_it=traced, most_rows=4)
    assert [key[0] for key in backend.unet.shapes] == [(n, 9, 8, 8) for n in (4, 2, 1)]
    assert {key[0][1] for key in backend.vae.shapes if key[0]} == {4}
    graphs = counters["stats"]["unique_graphs"]
    torch.compiler.set_stance("default")  # else what would be compiled runs eagerly, unseen
    plain, bench = make_backend(kind), Bench(backend)
    asked = [*repaintings()[::4], ask(seed=91)]
    for request in asked:  # one joins at each step
        bench.submit(request)
        bench.engine.step()
    bench.run()
    bench.engine.close()
    for request in asked:
        latents, pixels = stock(plain, request)
        assert far(bench.latents[request.request_id], latents) <= 1e-4, request.scheduler
        assert_same_picture(bench.picture(request), pixels, request)
    assert counters["stats"]["unique_graphs"] == graphs


def test_only_the_sizes_asked_for_are_compiled(make: Callable[..., BucketedBackend]) -> None:
    backend = make("sd1", compile_it=traced, sizes=((24, 16),), most_rows=1)
    assert [key[0] for key in backend.unet.shapes] == [(1, 4, 8, 12)]
    request = ask(width=24)
    plain = make("sd1", memory=FakeMemory())
    assert far(solo(backend, request)[0], solo(plain, request)[0]) <= 1e-5


def test_deterministic_runs_one_bucket_whatever_the_neighbours(
    make: Callable[..., BucketedBackend],
) -> None:
    backend = make("sd1", deterministic=True, most_rows=8, compile_it=traced)
    assert (backend.facts.fixed_rows, backend.facts.decode_batch) == (8, 1)
    assert backend.rows.sizes == (8,)
    asked = [ask(seed=seed, num_inference_steps=2 + seed) for seed in range(4)]
    alone = {r.request_id: solo(backend, r)[1] for r in asked}
    bench = Bench(backend)
    for request in asked:
        bench.submit(request)
    bench.run()
    bench.engine.close()
    assert {r.request_id: bench.picture(r) for r in asked} == alone
    with pytest.raises(RuntimeError, match=r"engine\.max_rows"):
        make("sd1", deterministic=True, most_rows=64, memory=SteppedMemory())


def test_buckets_are_no_larger_than_the_memory(make: Callable[..., BucketedBackend]) -> None:
    # 200 MiB each: (1800 - 410 - 10) / 200 rows.
    backend = make("sd1", most_rows=16, memory=SteppedMemory())
    assert backend.rows.sizes == (1, 2, 4, 6)
    assert backend.facts.max_rows == 6
    assert list(measure_step_costs(backend, 16, 16, 16)) == [1, 2, 4]


class SteppedMemory(FakeMemory):
    """Work is measured by its calls: one, then two rows; then the same of pictures."""

    def __init__(self) -> None:
        super().__init__(free=2000 * MIB, each=200 * MIB)

    def peak(self, work: Callable[[], object]) -> int:
        self.rows = self.rows % 2 + 1
        return super().peak(work)


def test_a_batch_that_outgrows_the_memory_is_painted_in_smaller_buckets(
    make: Callable[..., BucketedBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make("sd1", most_rows=8)
    asked = [ask(seed=seed) for seed in range(4)]
    truth = {r.request_id: solo(backend, r)[1] for r in asked}
    inner, most = backend.unet._eager, [2]

    def short(latents: torch.Tensor, *others: Any) -> torch.Tensor:
        if latents.shape[0] > most[0]:
            raise torch.OutOfMemoryError("out of memory")
        return inner(latents, *others)

    monkeypatch.setattr(backend.unet, "_eager", short)
    bench = Bench(backend, max_rows=8)
    for request in asked:
        bench.submit(request)
    bench.run()
    for request in asked:
        assert_same_picture(bench.picture(request), truth[request.request_id], request)
    assert backend.rows.largest == 2
    assert bench.engine.fault is None

    # Not even one row: the job fails, the device does not.
    most[0] = 0
    last = ask()
    bench.submit(last)
    bench.run()
    bench.engine.close()
    assert bench.failure(last).code == "generation_failed"
    assert "does not fit the device's memory" in bench.failure(last).message
    assert bench.engine.fault is None


def test_a_graph_that_does_not_fit_is_done_without(
    make: Callable[..., BucketedBackend],
) -> None:
    def choosy(call: Call) -> Call:
        def compiled(latents: Any, *others: Any) -> torch.Tensor:
            if latents.shape[0] > 2:
                raise torch.OutOfMemoryError("out of memory")
            return call(latents, *others)

        return compiled

    backend = make("sd1", most_rows=8, compile_it=choosy)
    assert backend.rows.sizes == (1, 2)
    assert (backend.facts.max_rows, backend.facts.decode_batch) == (2, 2)


def test_weights_are_channels_last(make: Callable[..., BucketedBackend]) -> None:
    backend = make("sd1")
    for part in (backend.pipe.unet, backend.pipe.vae):
        weights = [p for p in part.parameters() if p.dim() == 4]
        assert weights
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_cuda_needs_a_gpu_and_chooses_its_half_precision() -> None:
    assert [default_dtype(c) for c in ((7, 5), (8, 0), (9, 0))] == [
        "float16",
        "bfloat16",
        "bfloat16",
    ]
    if not torch.cuda.is_available():
        options = ReplicaOptions(
            pool="gpu", accelerator="a", framework="cuda", model_source="embedded"
        )
        with pytest.raises(RuntimeError, match=r"'gpu'.*CUDA build"):
            create(options)


def test_inductor_knows_the_options() -> None:
    assert inductor("off") is None
    for how in ("default", "max-autotune"):
        compile_it = inductor(how)  # type: ignore[arg-type]
        assert compile_it is not None
        compile_it(lambda x: x + 1)  # names are checked here


@pytest.mark.slow
def test_inductor_compiles_the_unet_and_the_decoder(
    make: Callable[..., BucketedBackend], make_backend: MakeBackend
) -> None:
    counters.clear()
    backend = make("sd1", most_rows=2, deterministic=True, compile_it=inductor("default"))
    assert counters["stats"]["unique_graphs"] == 2
    request = ask(scheduler="euler")
    latents, pixels = solo(backend, request)
    assert counters["stats"]["unique_graphs"] == 2
    want_latents, want = stock(make_backend("sd1"), request)
    assert far(latents, want_latents) <= 1e-4
    assert_same_picture(pixels, want, request)
