"""Whatever arrives when: each request is answered once, with its own picture."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import ImageFailure
from deployments.options import Admission
from tests.deployments.conftest import MakeBackend
from tests.deployments.harness import Bench, FakeBackend, ask, solo
from tests.deployments.test_oracle import NAMES, RGB, assert_same_picture, far
from tests.deployments.tiny_models import Kind

request_fields = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["a", "b", "c"]),
        "seed": st.integers(0, 3),
        "num_inference_steps": st.integers(1, 6),
        "guidance_scale": st.sampled_from([1.0, 4.0]),
        "scheduler": st.sampled_from(["default", "euler_a", "dpmpp_2m", "unipc"]),
        "width": st.sampled_from([16, 16, 24]),
    }
)
# Steps before the request arrives, and after how many further steps it is cancelled.
arrivals = st.lists(
    st.tuples(request_fields, st.integers(0, 3), st.one_of(st.none(), st.integers(0, 5))),
    min_size=1,
    max_size=14,
)


@cache
def solo_pixels(fields: tuple[tuple[str, Any], ...]) -> bytes:
    return solo(FakeBackend(), ask(**dict(fields)))[1]


@settings(max_examples=40, deadline=None)
@given(arrivals, st.integers(2, 7), st.sampled_from(["deadline", "shortest"]), st.booleans())
def test_every_request_gets_its_own_picture_once(
    schedule: list[tuple[dict[str, Any], int, int | None]],
    max_rows: int,
    admission: Admission,
    padded: bool,
) -> None:
    backend = FakeBackend(fixed_rows=max_rows if padded else None)
    bench = Bench(backend, max_rows=max_rows, admission=admission)
    jobs, tick = [], 0
    cancels: dict[int, list[Any]] = {}

    def step() -> None:
        nonlocal tick
        for job in cancels.pop(tick, []):
            job.cancelled = True
        bench.engine.step()
        tick += 1

    for fields, pause, patience in schedule:
        for _ in range(pause):
            step()
        job = bench.submit(ask(**fields))
        jobs.append((job, fields, patience is not None))
        if patience is not None:
            cancels.setdefault(tick + patience, []).append(job)
    budget = 20 + sum(f["num_inference_steps"] + 3 for f, _, _ in schedule)
    while bench.engine.busy:
        step()
        budget -= 1
        assert budget > 0, "a request starves"
    for job, fields, may_leave in jobs:
        (answer,) = bench.answers[job.request.request_id]
        if isinstance(answer, ImageFailure):
            assert may_leave, answer
            assert answer.message == "cancelled"
        else:
            assert answer.image == solo_pixels(tuple(fields.items()))
    assert bench.engine.rows == 0
    assert max(backend.batches, default=0) <= max_rows
    if padded:
        assert set(backend.batches) <= {max_rows}


painted_fields = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["a", "b", "c"]),
        "seed": st.integers(0, 3),
        "num_inference_steps": st.integers(2, 6),
        "guidance_scale": st.sampled_from([1.0, 4.0]),
        "scheduler": st.sampled_from(NAMES),
        "init_rgb": st.sampled_from([None, RGB.tobytes()]),
    }
).map(lambda f: f | {"strength": 0.6 if f["init_rgb"] else None})


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(painted_fields, st.integers(0, 3)), min_size=3, max_size=8),
    st.integers(3, 7),
)
def test_real_networks_in_random_schedules(
    kind: Kind,
    make_backend: MakeBackend,
    schedule: list[tuple[dict[str, Any], int]],
    max_rows: int,
) -> None:
    backend = make_backend(kind)
    bench = Bench(backend, max_rows=max_rows)
    asked = []
    for fields, pause in schedule:
        for _ in range(pause):
            bench.engine.step()
        asked.append(ask(**fields))
        bench.submit(asked[-1])
    bench.run()
    for request in asked:
        latents, pixels = solo(backend, request)
        distance = far(bench.latents[request.request_id], latents)
        assert distance <= (1e-4 if request.init_rgb else 1e-5), request
        assert_same_picture(bench.picture(request), pixels, request)


@pytest.mark.parametrize("admission", ["deadline", "shortest"])
def test_a_long_guided_request_is_not_starved_by_short_ones(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    bench = Bench(FakeBackend(), max_rows=2, admission=admission)
    bench.submit(ask(guidance_scale=1.0)).arrived = now[0]
    bench.engine.step()
    long = ask(num_inference_steps=30)
    bench.submit(long).arrived = now[0]
    for _ in range(100):  # two unguided newcomers where one a step can be served
        for _ in range(2):
            newcomer = ask(guidance_scale=1.0, num_inference_steps=2)
            bench.submit(newcomer).arrived = now[0]
        bench.engine.step()
        now[0] += 0.5
        if bench.answers[long.request_id]:
            break
    assert bench.picture(long)


def test_shortest_work_goes_first() -> None:
    bench = Bench(FakeBackend(), max_rows=2, admission="shortest")
    order: list[str] = []
    running = ask(num_inference_steps=2)
    bench.submit(running)
    bench.engine.step()
    long, short = ask(num_inference_steps=9), ask(num_inference_steps=1)
    for request in (long, short):
        bench.submit(request)
    while bench.engine.busy:
        bench.engine.step()
        order += [k for k in (long.request_id, short.request_id) if bench.answers[k]]
    assert order[0] == short.request_id


def test_earliest_deadline_goes_first() -> None:

    bench = Bench(FakeBackend(), max_rows=2)
    bench.submit(ask(num_inference_steps=2))
    bench.engine.step()
    late = ask(time_left_s=500)
    none, soon = ask(), ask(time_left_s=50)
    for request in (late, none, soon):
        bench.submit(request)
    order: list[str] = []
    while bench.engine.busy:
        bench.engine.step()
        order += [k for k in bench.latents if k not in order]
    assert order[1:] == [soon.request_id, none.request_id, late.request_id]


def test_a_group_is_not_starved_by_one_step_requests_of_another_shape() -> None:
    bench = Bench(FakeBackend(), max_rows=8)
    lonely = ask(width=24, num_inference_steps=6, guidance_scale=1.0)
    bench.submit(lonely)
    other = ask(width=32, num_inference_steps=20, guidance_scale=1.0)
    bench.submit(other)
    for _ in range(40):
        bench.submit(ask(num_inference_steps=1, guidance_scale=1.0))
        bench.engine.step()
    assert bench.picture(lonely)


def test_groups_share_steps_but_not_batches() -> None:
    backend = FakeBackend()
    bench = Bench(backend, max_rows=8)
    for width in (16, 24):
        for _ in range(2):
            bench.submit(ask(width=width, num_inference_steps=3))
    bench.run()
    assert backend.batches == [4] * 6


def test_padding_fills_idle_rows_with_zeros() -> None:
    backend = FakeBackend(fixed_rows=6, decode_batch=1)
    request = ask(num_inference_steps=3)
    plain = solo(FakeBackend(), request)
    padded = solo(backend, request)
    assert torch.equal(plain[0], padded[0])
    assert backend.batches == [6, 6, 6]
