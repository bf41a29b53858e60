"""Drives an engine without threads, and a backend of plain arithmetic to drive it with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray

from deployments.backends.base import BackendFacts, DenoiseBatch, TextEmbedding
from deployments.engine.engine import Engine
from deployments.engine.job import Answer, Job
from deployments.engine.preparation import Preparation
from deployments.messages import ImageFailure, ImageRequest, ImageResult, Timings
from deployments.options import Admission

_ids = itertools.count()


def ask(**fields: Any) -> ImageRequest:
    """A request of 16 x 16 pixels."""
    base: dict[str, Any] = {
        "request_id": f"r{next(_ids)}",
        "prompt": "a red circle",
        "negative_prompt": "",
        "width": 16,
        "height": 16,
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "seed": 0,
    }
    return ImageRequest(**(base | fields))


def result(job: Job, picture: NDArray[np.uint8]) -> ImageResult:
    """A result whose image is the raw pixels."""
    return ImageResult(
        image=picture.tobytes(),
        media_type="image/raw",
        seed=job.request.seed,
        timings=Timings(queue=0, encode=0, denoise=0, decode=0, total=0),
    )


@dataclass
class Bench:
    """An engine whose answers are kept by request id."""

    backend: Any
    max_rows: int = 8
    admission: Admission = "deadline"
    reference_pixels: int | None = None
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    latents: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.preparation = Preparation(self.backend)
        self.engine = Engine(
            self.backend,
            self._deliver,
            max_rows=self.max_rows,
            reference_pixels=self.reference_pixels,
            admission=self.admission,
        )

    def submit(self, request: ImageRequest) -> Job:
        """Prepare and hand in."""
        kept = self.answers.setdefault(request.request_id, [])
        job = Job(request, kept.append)
        self.preparation.prepare(job)
        self.engine.submit(job)
        return job

    def run(self, most: int = 2000) -> None:
        """Step until nothing is left."""
        while self.engine.busy:
            self.engine.step()
            assert self.engine.rows <= self.engine.max_rows
            most -= 1
            assert most, "the engine does not come to an end"

    def picture(self, request: ImageRequest) -> bytes:
        """The one answer, a picture."""
        (answer,) = self.answers[request.request_id]
        assert isinstance(answer, ImageResult), answer
        return answer.image

    def failure(self, request: ImageRequest) -> ImageFailure:
        """The one answer, a failure."""
        (answer,) = self.answers[request.request_id]
        assert isinstance(answer, ImageFailure), answer
        return answer

    def _deliver(self, job: Job, picture: NDArray[np.uint8]) -> None:
        self.latents[job.request.request_id] = job.path.latents
        job.answer(result(job, picture))


def solo(backend: Any, request: ImageRequest) -> tuple[torch.Tensor, bytes]:
    """Final latents and pixels of a request that had the engine to itself."""
    bench = Bench(backend)
    bench.submit(request)
    bench.run()
    return bench.latents[request.request_id], bench.picture(request)


class FakeBackend:
    """Elementwise arithmetic: each row depends on itself alone, whatever the batch.

    Attributes:
        batches: number of rows of each UNet call.
    """

    def __init__(self, fixed_rows: int | None = None, decode_batch: int = 4) -> None:
        self.facts = BackendFacts(
            device="cpu",
            dtype=torch.float32,
            latent_channels=4,
            scale_factor=2,
            scheduler=DDIMScheduler(clip_sample=False),
            guidance_embedding_dim=None,
            size_conditioned=False,
            fixed_rows=fixed_rows,
            decode_batch=decode_batch,
            overlap_decode=False,
            zero_empty_negative=False,
        )
        self.batches: list[int] = []
        self.decodes: list[int] = []
        self.encoded: list[str] = []

    def change(self, **facts: Any) -> None:
        """Replace facts."""
        self.facts = replace(self.facts, **facts)

    def encode_prompt(self, text: str) -> TextEmbedding:
        self.encoded.append(text)
        if text == "refuse":
            raise ValueError("refused")
        if text == "explode":
            raise RuntimeError("exploded")
        value = float("nan") if text == "nan" else float(sum(text.encode()) % 97) / 97
        return TextEmbedding(torch.full((1, 3, 2), value), None, False)

    def encode_image(self, *_: Any) -> torch.Tensor:
        raise NotImplementedError("plain arithmetic starts from noise; the oracle tests encode")

    def denoise(self, batch: DenoiseBatch) -> torch.Tensor:
        rows = batch.latents.shape[0]
        assert batch.timesteps.shape == (rows,)
        assert batch.hidden.shape[0] == rows
        self.batches.append(rows)
        bias = batch.hidden.mean(dim=(1, 2))[:, None, None, None]
        return batch.latents * 0.5 + bias + batch.timesteps[:, None, None, None] / 1000

    def decode(self, latents: torch.Tensor) -> Sequence[NDArray[np.uint8] | None]:
        self.decodes.append(len(latents))
        pixels = ((latents[:, :3].permute(0, 2, 3, 1) * 100).long() % 256).to(torch.uint8)
        return [x.numpy() for x in pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)]
