"""Repainting a part of a picture: stock diffusers' inpainting pipelines are the truth."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from deployments.messages import ImageRequest
from tests.deployments.conftest import MakeBackend
from tests.deployments.harness import Bench, ask, solo
from tests.deployments.test_oracle import NAMES, RGB, assert_same_picture, far, stock
from tests.deployments.tiny_models import Kind

# A rectangle, and a diagonal whose edge runs through latent cells (2 x 2 pixels).
RECTANGLE = np.zeros((16, 16), np.uint8)
RECTANGLE[3:11, 5:16] = 255
DIAGONAL = np.where(np.add.outer(np.arange(16), np.arange(16)) > 13, 255, 0).astype(np.uint8)


def masked(**fields: Any) -> ImageRequest:
    base: dict[str, Any] = {
        "init_rgb": RGB.tobytes(),
        "mask": RECTANGLE.tobytes(),
        "strength": 1.0,
    }
    return ask(**(base | fields))


def requests() -> list[ImageRequest]:
    """Every scheduler, from noise and from the picture, guided and not, both masks."""
    asked = []
    for i, (name, strength) in enumerate(itertools.product(NAMES, (1.0, 0.7))):
        asked.append(
            masked(
                prompt=f"a circle {i}",
                scheduler=name,
                strength=strength,
                mask=(RECTANGLE if i % 3 else DIAGONAL).tobytes(),
                num_inference_steps=3 + i % 4,
                guidance_scale=(3.3 + i % 5) if i % 4 else 1.0,
                seed=i,
            )
        )
    return asked


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "lcm", "inpaint", "xl_inpaint"])
def test_alone_is_bit_equal_and_mixed_is_equal(kind: Kind, make_backend: MakeBackend) -> None:
    backend = make_backend(kind)
    asked = requests()
    # Ordinary requests share the batch: from text, and from a picture without a mask.
    asked += [
        ask(seed=91, scheduler="euler"),
        ask(seed=92, guidance_scale=1.0),
        ask(seed=93, init_rgb=RGB.tobytes(), strength=0.6, scheduler="ddim"),
    ]
    truth = {r.request_id: stock(backend, r) for r in asked}
    for request in asked:
        latents, pixels = solo(backend, request)
        assert torch.equal(latents, truth[request.request_id][0]), request.scheduler
        assert pixels == truth[request.request_id][1], request.scheduler

    bench = Bench(backend, max_rows=7)
    for request in asked:  # one joins at each tick
        bench.submit(request)
        bench.engine.step()
    bench.run()
    for request in asked:
        latents, pixels = truth[request.request_id]
        assert far(bench.latents[request.request_id], latents) <= 1e-4, request.scheduler
        assert_same_picture(bench.picture(request), pixels, request)


@pytest.mark.parametrize("kind", ["sd1", "inpaint"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_alone_is_bit_equal_in_half_precision(
    kind: Kind, dtype: torch.dtype, make_backend: MakeBackend
) -> None:
    backend = make_backend(kind, dtype=dtype)
    for request in requests()[::3]:
        latents, pixels = solo(backend, request)
        want_latents, want_pixels = stock(backend, request)
        assert torch.equal(latents, want_latents), request.scheduler
        assert pixels == want_pixels, request.scheduler


@pytest.mark.parametrize("kind", ["sd1", "inpaint"])
def test_deterministic_is_bit_equal_whatever_the_neighbours(
    kind: Kind, make_backend: MakeBackend
) -> None:
    backend = make_backend(kind, fixed_rows=8, decode_batch=1)
    asked = [*requests()[::2], ask(seed=5)]
    alone = {r.request_id: solo(backend, r) for r in asked}
    bench = Bench(backend)
    for request in asked[::-1]:
        bench.submit(request)
        bench.engine.step()
    bench.run()
    for request in asked:
        assert torch.equal(bench.latents[request.request_id], alone[request.request_id][0])
        assert bench.picture(request) == alone[request.request_id][1]


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "inpaint"])
def test_other_shapes(kind: Kind, make_backend: MakeBackend) -> None:
    backend = make_backend(kind)
    mask = np.zeros((24, 32), np.uint8)
    mask[5:20, :9] = 255
    rgb = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    request = masked(
        width=32, height=24, mask=mask.tobytes(), init_rgb=rgb.tobytes(), scheduler="euler_a"
    )
    latents, pixels = solo(backend, request)
    assert torch.equal(latents, stock(backend, request)[0])
    assert pixels == stock(backend, request)[1]


def test_what_is_kept_comes_back_as_the_picture_encoded(make_backend: MakeBackend) -> None:
    """By an ordinary UNet, bit by bit; nothing of the prompt or the seed's later draws shows."""
    backend = make_backend("sd2")
    ends = [
        solo(backend, masked(seed=3, prompt=prompt, scheduler="euler_a"))[0]
        for prompt in ("a circle", "something else")
    ]
    cells = torch.from_numpy(RECTANGLE[::2, ::2] > 0)
    assert torch.equal(ends[0][..., ~cells], ends[1][..., ~cells])
    assert not torch.equal(ends[0][..., cells], ends[1][..., cells])
    encoded = backend.encode_image(RGB, torch.Generator().manual_seed(3))
    assert torch.equal(ends[0][..., ~cells], encoded[..., ~cells])


def test_the_pictures_bytes_are_let_go_once_prepared(make_backend: MakeBackend) -> None:
    job = Bench(make_backend("sd1")).submit(masked())
    assert (job.request.init_rgb, job.request.mask) == (None, None)
