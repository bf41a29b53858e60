"""Stock diffusers, one request at a time, is the truth; the engine must give the same."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image

from deployments.backends.pipeline import PipelineBackend
from deployments.messages import ImageRequest, SchedulerName
from tests.deployments.conftest import MakeBackend
from tests.deployments.harness import Bench, ask, solo
from tests.deployments.tiny_models import Kind

NAMES: tuple[SchedulerName, ...] = (
    "default",
    "ddim",
    "euler",
    "euler_a",
    "dpmpp_2m",
    "unipc",
    "lcm",
)
# Written out here, so that the engine's own table is not its own judge.
SCHEDULERS: dict[SchedulerName, Callable[[Any], Any]] = {
    "default": lambda own: type(own).from_config(own.config),
    "ddim": lambda own: DDIMScheduler.from_config(own.config, clip_sample=False),
    "euler": lambda own: EulerDiscreteScheduler.from_config(own.config),
    "euler_a": lambda own: EulerAncestralDiscreteScheduler.from_config(own.config),
    "dpmpp_2m": lambda own: DPMSolverMultistepScheduler.from_config(own.config),
    "unipc": lambda own: UniPCMultistepScheduler.from_config(own.config),
    "lcm": lambda own: LCMScheduler.from_config(own.config, clip_sample=False),
}
RGB = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def stock(backend: PipelineBackend, request: ImageRequest) -> tuple[torch.Tensor, bytes]:
    """What diffusers' own pipeline paints: latents and pixels."""
    pipe = backend.pipe
    large = backend.facts.size_conditioned
    common: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
    }
    size = {"height": request.height, "width": request.width}
    if request.init_rgb is None and not backend.facts.mask_conditioned:
        cls = StableDiffusionXLPipeline if large else StableDiffusionPipeline
        common |= size
    else:
        shape = (request.width, request.height)
        # An inpainting model without a mask repaints all, and without a picture: any picture.
        start = Image.frombytes("RGB", shape, request.init_rgb or b"\x55" * 3 * shape[0] * shape[1])
        common |= {"image": start, "strength": request.strength or 1.0}
        if request.mask is None and not backend.facts.mask_conditioned:
            cls = StableDiffusionXLImg2ImgPipeline if large else StableDiffusionImg2ImgPipeline
        else:
            cls = StableDiffusionXLInpaintPipeline if large else StableDiffusionInpaintPipeline
            mask = request.mask or b"\xff" * shape[0] * shape[1]
            common |= size | {"mask_image": Image.frombytes("L", shape, mask)}
    parts = dict(pipe.components)
    if pipe.vae.dtype != backend.facts.dtype:  # stock casts it back and forth around each decode
        parts["vae"] = copy.deepcopy(pipe.vae).to(backend.facts.dtype)
    parts["scheduler"] = SCHEDULERS[request.scheduler](pipe.scheduler)
    more = {"add_watermarker": False} if large else {"requires_safety_checker": False}
    reference = cls(**parts, **more)
    reference.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    # Looking at the latents on their way saves a second run for the pixels.
    seen: list[torch.Tensor] = []

    def keep(_: Any, __: int, ___: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append(kwargs["latents"].clone())
        return {}

    with torch.inference_mode():
        picture = reference(
            **common, generator=generator, callback_on_step_end=keep, output_type="pil"
        ).images[0]
    return seen[-1], np.asarray(picture).tobytes()


def requests(kind: Kind) -> list[ImageRequest]:
    """Every scheduler, both tasks, guided and not, with different steps and seeds."""
    asked = []
    for i, (name, painted, guided) in enumerate(
        itertools.product(NAMES, (False, True), (False, True))
    ):
        asked.append(
            ask(
                prompt=f"a circle {i}",
                negative_prompt="blurry" if i % 3 == 0 else "",
                scheduler=name,
                num_inference_steps=3 + i % 4,
                guidance_scale=(3.3 + i % 5) if guided else 1.0,
                seed=i,
                init_rgb=RGB.tobytes() if painted else None,
                strength=0.7 if painted else None,
            )
        )
    return asked


def far(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference as a share of the largest latent."""
    return float((got - want).abs().max() / want.abs().max())


def differing(got: bytes, want: bytes) -> tuple[int, int]:
    """Largest difference in levels, and how many values differ."""
    a, b = (np.frombuffer(x, np.uint8).astype(int) for x in (got, want))
    return int(np.abs(a - b).max()), int((a != b).sum())


def assert_same_picture(got: bytes, want: bytes, why: ImageRequest) -> int:
    """At most one level apart in at most 0.1 % of the values (one value of so small a picture)."""
    level, changed = differing(got, want)
    assert level <= 1, why
    assert changed <= max(1, len(want) // 1000), (changed, why)
    return changed


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "lcm"])
def test_alone_is_bit_equal_and_mixed_is_equal(
    kind: Kind, make_backend: MakeBackend, record_property: Any
) -> None:
    backend = make_backend(kind)
    asked = requests(kind)
    truth = {r.request_id: stock(backend, r) for r in asked}
    for request in asked:
        latents, pixels = solo(backend, request)
        assert torch.equal(latents, truth[request.request_id][0]), request
        assert pixels == truth[request.request_id][1], request

    bench = Bench(backend, max_rows=7)
    for request in asked:  # one joins at each tick
        bench.submit(request)
        bench.engine.step()
    bench.run()
    worst, most_changed = {True: 0.0, False: 0.0}, 0
    for request in asked:
        latents, pixels = truth[request.request_id]
        painted = request.init_rgb is not None
        distance = far(bench.latents[request.request_id], latents)
        worst[painted] = max(worst[painted], distance)
        assert distance <= (1e-4 if painted else 1e-5), (distance, request)
        most_changed = max(
            most_changed, assert_same_picture(bench.picture(request), pixels, request)
        )
    record_property("worst_txt2img", worst[False])
    record_property("worst_img2img", worst[True])
    record_property("most_changed", most_changed)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_alone_is_bit_equal_in_half_precision(
    kind: Kind, dtype: torch.dtype, make_backend: MakeBackend
) -> None:
    backend = make_backend(kind, dtype=dtype)
    asked = requests(kind)[::3]
    if kind == "sdxl" and dtype == torch.bfloat16:
        # Stock encodes start pictures in float32 although bfloat16 cannot overflow; we do not.
        asked = [r for r in asked if r.init_rgb is None]
    for request in asked:
        latents, pixels = solo(backend, request)
        want_latents, want_pixels = stock(backend, request)
        assert torch.equal(latents, want_latents), request
        assert pixels == want_pixels, request


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "lcm"])
@pytest.mark.parametrize("threads", [1, 2])
def test_deterministic_is_bit_equal_whatever_the_neighbours(
    kind: Kind, threads: int, make_backend: MakeBackend
) -> None:
    backend = make_backend(kind, fixed_rows=8, decode_batch=1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Two threads on busy cores mostly wait for each other: fewer requests there.
        asked = requests(kind)[:: 3 if threads == 1 else 7]
        alone = {r.request_id: solo(backend, r) for r in asked}
        for order in (asked, asked[::-1], asked[2:] + asked[:2]):
            bench = Bench(backend)
            for i, request in enumerate(order):
                bench.submit(request)
                if i % 2:
                    bench.engine.step()
            bench.run()
            for request in order:
                latents, pixels = alone[request.request_id]
                assert torch.equal(bench.latents[request.request_id], latents), request
                assert bench.picture(request) == pixels
    finally:
        torch.set_num_threads(before)


def test_sizes_that_are_not_square_and_not_the_default(make_backend: MakeBackend) -> None:
    for kind in ("sd1", "sdxl"):
        backend = make_backend(kind)
        request = ask(width=32, height=24, scheduler="euler")
        latents, pixels = solo(backend, request)
        assert torch.equal(latents, stock(backend, request)[0])
        assert pixels == stock(backend, request)[1]


def test_long_prompt_is_cut_and_says_so(make_backend: MakeBackend) -> None:
    backend = make_backend("sdxl")
    assert backend.encode_prompt("word " * 40).truncated
    assert not backend.encode_prompt("a").truncated
    request = ask(prompt="word " * 40)
    assert solo(backend, request)[1] == stock(backend, request)[1]
