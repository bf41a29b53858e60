"""The stock pipeline as common samples call it, for servers that are measured against; no Ray."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from benchmarks.peers.contestants import MOST
from benchmarks.prompt import Prompt, kind
from deployments.backends.cpu import usable_cores
from deployments.model import load_pipeline
from deployments.model_info import load_model_info

MODEL = "embedded"
_TRIALS = 5
_LOCK = threading.Lock()


@cache
def pipeline() -> Any:
    """The stock pipeline, loaded once."""
    pipe = load_pipeline(MODEL, None)
    return pipe.to("cpu", torch.float32)


def start(threads: int = 1) -> None:
    """Load the model and paint one picture, with the number of threads that our replica uses."""
    torch.set_num_threads(threads)
    paint([Prompt(prompt="warm-up", num_inference_steps=2)])


def start_fastest() -> int:
    """As ``start``, with the number of threads that paints soonest, as our replica chooses its own.

    Returns:
        the number: all cores, or a half of them, a quarter and so on.
    """
    numbers = [usable_cores()]
    while numbers[-1] > 1:
        numbers.append(numbers[-1] // 2)
    seconds: dict[int, float] = {}
    for threads in numbers:
        start(threads)
        took = []
        for seed in range(_TRIALS):
            begin = time.perf_counter()
            paint([Prompt(prompt="a trial", seed=seed)])
            took.append(time.perf_counter() - begin)
        seconds[threads] = min(took)
    fastest = min(seconds, key=lambda threads: seconds[threads])
    torch.set_num_threads(fastest)
    return fastest


def paint(prompts: Sequence[Prompt]) -> list[tuple[bytes, float]]:
    """One call for prompts of equal steps and size: PNGs, and the milliseconds that it took.

    Waiting for the pipeline counts: it serves one caller at a time.
    """
    begin = time.perf_counter()
    guidance = load_model_info(MODEL, None).defaults.guidance_scale
    with _LOCK, torch.inference_mode():
        images = pipeline()(
            [prompt.prompt for prompt in prompts],
            num_inference_steps=prompts[0].num_inference_steps,
            width=prompts[0].width,
            height=prompts[0].height,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(p.seed) for p in prompts],
        ).images
    pictures = [png(image) for image in images]
    took = (time.perf_counter() - begin) * 1000
    return [(picture, took) for picture in pictures]


def paint_mixed(prompts: Sequence[Prompt]) -> list[tuple[bytes, float]]:
    """A collected batch: one call per step count and size, of at most ``MOST`` pictures.

    A stock pipeline takes one step count per call. Running them all for the most steps would paint
    other pictures than were asked for.
    """
    groups: dict[tuple[int, int, int], list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(kind(prompt), []).append(place)
    answers: dict[int, tuple[bytes, float]] = {}
    for places in groups.values():
        for first in range(0, len(places), MOST):
            chunk = places[first : first + MOST]
            answers.update(zip(chunk, paint([prompts[i] for i in chunk]), strict=True))
    return [answers[place] for place in range(len(prompts))]


def png(image: Any) -> bytes:
    """Encoded as our replica does it, less the recipe."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
