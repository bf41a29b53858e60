"""Progress and previews: what a watcher is told, and that nobody else notices."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image

from deployments.backends.pipeline import PipelineBackend
from deployments.engine.job import Job
from deployments.engine.mailbox import Mailbox
from deployments.engine.previews import LinearDecoder, preview_steps
from deployments.engine.service import EngineService
from deployments.engine.trajectory import make_scheduler
from deployments.messages import (
    ImageEvent,
    ImagePreview,
    ImageProgress,
    ImageRequest,
    ImageResult,
)
from deployments.picture import encode_preview
from tests.deployments.conftest import MakeBackend
from tests.deployments.harness import Bench, FakeBackend, ask, result, solo
from tests.deployments.test_inpainting import RECTANGLE, masked
from tests.deployments.test_oracle import NAMES, RGB
from tests.deployments.test_service import SlowBackend, until


def watched(bench: Bench, request: ImageRequest) -> tuple[Job, list[ImageEvent]]:
    """Hand in a request and collect what its watcher is told."""
    kept = bench.answers.setdefault(request.request_id, [])
    told: list[ImageEvent] = []
    job = Job(request, kept.append, told.append)
    bench.preparation.prepare(job)
    bench.engine.submit(job)
    return job, told


@pytest.mark.parametrize(
    ("steps", "previews", "due"),
    [
        (8, 3, (2, 4, 6)),
        (20, 3, (5, 10, 15)),
        (8, 0, ()),
        (1, 3, ()),
        (2, 3, (1,)),
        (3, 2, (1, 2)),
        (50, 1, (25,)),
    ],
)
def test_previews_are_spread_evenly_and_never_after_the_last_step(
    steps: int, previews: int, due: tuple[int, ...]
) -> None:
    found = preview_steps(steps, previews)
    assert found == due or (len(found) < previews and set(found) <= set(range(1, steps)))
    assert len(found) == len(due)


def test_every_step_and_place_is_told() -> None:
    bench = Bench(FakeBackend(), max_rows=2)
    first, told = watched(bench, ask(num_inference_steps=3))
    _, waits = watched(bench, ask(num_inference_steps=2))
    _, waits_longer = watched(bench, ask(num_inference_steps=1))
    bench.run()
    assert told == [ImageProgress(step=k, steps=3) for k in (1, 2, 3)]
    assert waits == [
        ImageProgress(step=0, steps=2, place=1),
        ImageProgress(step=1, steps=2),
        ImageProgress(step=2, steps=2),
    ]
    assert waits_longer[:2] == [
        ImageProgress(step=0, steps=1, place=2),
        ImageProgress(step=0, steps=1, place=1),
    ]
    assert first.place is None


def stock_clean(backend: PipelineBackend, request: ImageRequest) -> list[torch.Tensor]:
    """``pred_original_sample`` of every step, by the schedulers' own code."""
    found: list[torch.Tensor] = []
    bench = Bench(backend)
    job = bench.submit(request)
    scheduler = job.path.scheduler
    step = scheduler.step

    def keep(prediction: Any, t: Any, sample: Any, **more: Any) -> Any:
        if hasattr(scheduler, "convert_model_output"):  # multistep: before the history is used
            if scheduler.step_index is None:
                scheduler._init_step_index(t)
            found.append(scheduler.convert_model_output(prediction, sample=sample))
        elif type(scheduler).__name__ == "LCMScheduler":
            found.append(unboundary(scheduler, prediction, t, sample))
        else:
            # Of a fresh one, as a step may be taken once, and so that no noise is used up.
            other = make_scheduler(request.scheduler, backend.facts.scheduler)
            other.set_timesteps(request.num_inference_steps)
            if hasattr(other, "set_begin_index") and scheduler.step_index is not None:
                other.set_begin_index(scheduler.step_index)
            if hasattr(other, "is_scale_input_called"):
                other.is_scale_input_called = True
            found.append(other.step(prediction, t, sample).pred_original_sample)
        return step(prediction, t, sample, **more)

    scheduler.step = keep
    bench.run()
    return found


def unboundary(scheduler: Any, prediction: Any, t: Any, sample: Any) -> Any:
    """LCM hands out its clean latents only mixed with the sample: undo the mixing."""
    other = type(scheduler).from_config(scheduler.config)
    other.set_timesteps(scheduler.num_inference_steps)
    mixed = other.step(prediction, t, sample, return_dict=True).denoised
    skip, out = other.get_scalings_for_boundary_condition_discrete(t)
    return (mixed - skip * sample) / out


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "default"])
def test_the_clean_latents_are_the_schedulers_own(
    kind: Any, name: Any, make_backend: MakeBackend
) -> None:
    backend = make_backend(kind)
    request = ask(scheduler=name, num_inference_steps=5, previews=3, seed=4)
    want = stock_clean(backend, request)
    shown: list[torch.Tensor] = []
    bench = Bench(backend)
    bench.engine._show = lambda job, clean: shown.append(clean)
    job, _ = watched(bench, request)
    bench.run()
    assert job.preview_steps == (1, 2, 4)
    assert len(shown) == 3
    for step, clean in zip(job.preview_steps, shown, strict=True):
        scale = float(want[step - 1].abs().max())
        assert float((clean - want[step - 1]).abs().max()) <= 1e-4 * scale


def test_the_last_clean_latents_of_pndm_are_nearly_the_picture(make_backend: MakeBackend) -> None:
    backend = make_backend("sd1")
    shown: list[torch.Tensor] = []
    bench = Bench(backend)
    bench.engine._show = lambda job, clean: shown.append(clean)
    request = ask(num_inference_steps=40, guidance_scale=1.0, previews=1)
    job, _ = watched(bench, request)
    job.preview_steps = (1, 41)  # PNDM takes one of its steps twice
    bench.run()
    end = bench.latents[request.request_id]
    early, late = (float((clean - end).abs().mean() / end.abs().mean()) for clean in shown)
    assert late < early / 4


def test_what_inpainting_keeps_is_there_in_the_preview(make_backend: MakeBackend) -> None:
    backend = make_backend("sd2")
    shown: list[torch.Tensor] = []
    bench = Bench(backend)
    bench.engine._show = lambda job, clean: shown.append(clean)
    watched(bench, masked(previews=1, seed=2))
    bench.run()
    encoded = backend.encode_image(RGB, torch.Generator().manual_seed(2))
    cells = torch.from_numpy(RECTANGLE[::2, ::2] > 0)
    assert torch.equal(shown[0][..., ~cells], encoded[..., ~cells])
    assert not torch.equal(shown[0][..., cells], encoded[..., cells])


def test_watching_changes_no_picture(make_backend: MakeBackend) -> None:
    backend = make_backend("sd1")
    requests = [ask(seed=seed, scheduler=name) for seed, name in enumerate(NAMES)]
    for request in requests:
        bench = Bench(backend)
        watched(bench, request)
        bench.run()
        assert bench.picture(request) == solo(backend, request)[1]


class PaintBox(FakeBackend):
    """A VAE that is a linear map: a latent's channels are a cell's mean colours, and one more."""

    def encode_image(self, rgb: Any, *_: Any) -> torch.Tensor:
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
        colours = torch.nn.functional.avg_pool2d(pixels, 2)
        return torch.cat([3 * colours[:, :2] - 1, 2 * colours[:, 2:], colours.sum(1)[None]], dim=1)


def test_the_fitted_decoder_finds_a_linear_vae() -> None:
    backend = PaintBox()
    decoder = LinearDecoder.fit(backend, 16, 16)
    assert decoder.side == 1
    rgb = np.random.default_rng(3).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    shown = decoder.decode(backend.encode_image(rgb)).astype(int)
    means = rgb.reshape(12, 2, 8, 2, 3).mean((1, 3))
    assert shown.shape == (12, 8, 3)
    assert np.abs(shown - means).max() <= 1


@pytest.fixture(scope="module")
def embedded() -> PipelineBackend:
    from deployments.backends.cpu import create
    from deployments.options import ReplicaOptions

    return create(
        ReplicaOptions(
            pool="p", accelerator="a", framework="cpu", model_source="embedded", threads=1
        )
    )


def apart(one: Any, other: Any) -> float:
    """Mean squared difference of pictures, the first enlarged to the other's size."""
    size = (other.shape[1], other.shape[0])
    large = np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC))
    return float(((large.astype(float) - other) ** 2).mean())


def test_the_embedded_models_previews_look_like_its_pictures(embedded: PipelineBackend) -> None:
    from models import scenes

    decoder = LinearDecoder.fit(embedded, 64, 64)
    assert decoder.side == 4
    errors = []
    for index, kind in enumerate(scenes.KINDS):
        picture = np.asarray(scenes.render(scenes.draw_scene(random.Random(index), kind)))
        latent = embedded.encode_image(picture, torch.Generator().manual_seed(index))
        errors.append(apart(decoder.decode(latent), picture))
    # Mean PSNR in decibels; 27 were measured (benchmarks/previews.md), 22 without sub-pixels.
    assert np.mean(10 * np.log10(255**2 / np.array(errors))) > 25


def test_previews_come_nearer_to_the_picture(embedded: PipelineBackend) -> None:
    decoder = LinearDecoder.fit(embedded, 64, 64)
    shown: list[torch.Tensor] = []
    bench = Bench(embedded)
    bench.engine._show = lambda job, clean: shown.append(clean)
    request = ask(
        prompt="a red circle on a blue background", seed=7, width=64, height=64,
        num_inference_steps=8, guidance_scale=2.0, previews=3,
    )  # fmt: skip
    watched(bench, request)
    bench.run()
    final = np.frombuffer(bench.picture(request), np.uint8).reshape(64, 64, 3)
    first, second, third = (apart(decoder.decode(clean), final) for clean in shown)
    assert third < second < first
    assert third < 500  # a PSNR of 21 decibels; two pictures of other seeds are 10 apart


def test_latents_that_are_not_finite_do_not_break_a_preview() -> None:
    decoder = LinearDecoder.fit(PaintBox(), 16, 16)
    assert decoder.decode(torch.full((1, 4, 8, 8), torch.nan)).max() == 0


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_preview_has_the_pictures_size_and_format(output_format: Any) -> None:
    request = ask(width=64, height=32, output_format=output_format)
    image = Image.open(io.BytesIO(encode_preview(np.zeros((8, 16, 3), np.uint8), request)))
    assert (image.size, (image.format or "").lower()) == ((64, 32), output_format)


def render(request: ImageRequest, clean: torch.Tensor) -> bytes:
    if request.seed == 13:
        raise OSError("disk")
    return clean.numpy().tobytes()


@pytest_asyncio.fixture
async def service() -> AsyncIterator[EngineService]:
    service = EngineService(
        SlowBackend(), result, render, max_rows=2, max_queued=9, admission="deadline"
    )
    yield service
    service.stop()


async def test_a_stream_ends_with_the_answer(service: EngineService) -> None:
    request = ask(num_inference_steps=40, previews=3)
    events = [event async for event in service.stream(request)]
    last = events.pop()
    assert isinstance(last, ImageResult)
    assert last.image == solo(FakeBackend(), request)[1]
    previews = [event for event in events if isinstance(event, ImagePreview)]
    assert [(p.index, p.step, p.steps) for p in previews] == [(0, 10, 40), (1, 20, 40), (2, 30, 40)]
    assert len({p.image for p in previews}) == 3
    steps = [event.step for event in events if isinstance(event, ImageProgress)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 40
    assert service.open == 0


async def test_a_preview_that_cannot_be_made_costs_nothing(service: EngineService) -> None:
    request = ask(num_inference_steps=8, previews=3, seed=13)
    events = [event async for event in service.stream(request)]
    assert isinstance(events[-1], ImageResult)
    assert not [event for event in events if isinstance(event, ImagePreview)]


async def test_previews_are_given_out_before_the_answer_however_late() -> None:
    box = Mailbox()
    end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    preview = ImagePreview(index=0, step=1, steps=2, image=b"", media_type="image/png")
    box.put(ImageProgress(step=1, steps=2))
    box.put(ImageProgress(step=2, steps=2))
    box.put(preview)
    end.set_result(1)
    assert [e async for e in box.until(end)] == [preview, ImageProgress(step=2, steps=2)]


async def test_closing_a_stream_frees_its_rows_at_the_next_step(service: EngineService) -> None:
    stream = service.stream(ask(num_inference_steps=900))
    assert isinstance(await anext(stream), ImageProgress)
    await until(lambda: service.engine.rows == 2)
    await stream.aclose()
    began = service.engine._turn
    await until(lambda: service.engine.rows == 0)
    assert service.engine._turn - began <= 2
    assert service.open == 0


async def test_cancelling_the_reader_frees_its_rows_too(service: EngineService) -> None:
    async def read() -> None:
        async for _ in service.stream(ask(num_inference_steps=900)):
            pass

    task = asyncio.create_task(read())
    await until(lambda: service.engine.rows == 2)
    task.cancel()
    await until(lambda: service.engine.rows == 0)


async def test_a_refusal_is_the_streams_only_item(service: EngineService) -> None:
    (only,) = [event async for event in service.stream(ask(num_inference_steps=1001))]
    assert getattr(only, "code", "") == "invalid_request"
