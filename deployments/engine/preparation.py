"""From request to prepared job: encodings, scheduler, starting noise; off the loop."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import torch

from deployments.backends.base import Backend, TextEmbedding
from deployments.engine.job import Conditioning, Job
from deployments.engine.trajectory import RefusedRequestError, Trajectory, make_scheduler
from deployments.engine.transfer import SideQueue
from deployments.messages import ImageRequest

# 80 MB of SDXL's embeddings in single precision.
PROMPT_CACHE_ENTRIES = 128


class Preparation:
    """Prepares jobs one after the other; keeps the last prompts' embeddings."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._cache: OrderedDict[tuple[str, str | None], TextEmbedding] = OrderedDict()
        self._queue = SideQueue(torch.device(backend.facts.device))

    @torch.inference_mode()
    def prepare(self, job: Job) -> None:
        """Fill in the job's conditioning and trajectory.

        Raises:
            RefusedRequestError: the scheduler refuses the request's numbers.
        """
        begin = time.monotonic()
        with self._queue.use():
            self._fill(job)
            self._queue.hand_over(job.path.latents, *job.text.tensors)
        job.request = replace(job.request, init_rgb=None)  # megabytes nobody needs any more
        job.prepared = time.monotonic()
        job.encode_ms = (job.prepared - begin) * 1000

    def _fill(self, job: Job) -> None:
        request, facts = job.request, self.backend.facts
        distilled = facts.guidance_embedding_dim is not None
        guided = request.guidance_scale > 1 and not distilled
        lora = self._lora(request)
        job.conditioning = Conditioning(
            positive=self._encode(request.prompt, lora),
            negative=self._negative(request, lora) if guided else None,
            time_ids=self._time_ids(request) if facts.size_conditioned else None,
            timestep_cond=self._guidance_embedding(request) if distilled else None,
            adapter=self._adapter(lora) if facts.loras else None,
        )
        # Noise is drawn on the CPU, so that a retry on other hardware starts from the same latents.
        generator = torch.Generator("cpu").manual_seed(request.seed)
        height, width = request.height // facts.scale_factor, request.width // facts.scale_factor
        init = None
        if request.init_rgb is not None:
            rgb = np.frombuffer(request.init_rgb, np.uint8)
            rgb = rgb.reshape(request.height, request.width, 3).copy()
            init = self.backend.encode_image(rgb, generator)
        job.trajectory = Trajectory(
            scheduler=make_scheduler(request.scheduler, facts.scheduler),
            steps=request.num_inference_steps,
            strength=request.strength,
            init_latents=init,
            shape=(1, facts.latent_channels, height, width),
            dtype=facts.dtype,
            device=torch.device(facts.device),
            generator=generator,
        )

    def fault(self) -> str | None:
        """Whether the device itself is unwell, after a request could not be prepared."""
        try:
            self.backend.encode_prompt("").hidden.flatten()[0].item()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _lora(self, request: ImageRequest) -> str | None:
        """The adapter to choose for the request; ``None`` for none, or the one in the weights."""
        facts = self.backend.facts
        if request.lora == facts.fused_lora:
            return None
        if facts.fused_lora is not None or request.lora not in (None, *facts.loras):
            has = facts.fused_lora or ", ".join(facts.loras) or "none"
            raise RefusedRequestError(f"lora: {request.lora!r} is not here; this replica has {has}")
        return request.lora

    def _adapter(self, lora: str | None) -> torch.Tensor:
        facts = self.backend.facts
        number = 0 if lora is None else facts.loras.index(lora) + 1
        return torch.tensor([number], device=facts.device)

    def _encode(self, text: str, lora: str | None = None) -> TextEmbedding:
        key = (text, lora)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        # Not every backend takes adapters.
        embedding = self.backend.encode_prompt(*(key if lora is not None else (text,)))
        if not bool(torch.isfinite(embedding.hidden).all()):
            return embedding  # fails this request, but not all that will ask the same
        self._cache[key] = embedding
        if len(self._cache) > PROMPT_CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return embedding

    def _negative(self, request: ImageRequest, lora: str | None) -> TextEmbedding:
        encoded = self._encode(request.negative_prompt, lora)
        if request.negative_prompt or not self.backend.facts.zero_empty_negative:
            return encoded
        pooled = None if encoded.pooled is None else torch.zeros_like(encoded.pooled)
        return TextEmbedding(torch.zeros_like(encoded.hidden), pooled, False)

    def _time_ids(self, request: ImageRequest) -> torch.Tensor:
        size = [request.height, request.width]
        facts = self.backend.facts
        # Original size, crop offset and target size (SDXL, arXiv:2307.01952, section 2.2).
        return torch.tensor([[*size, 0, 0, *size]], dtype=facts.dtype, device=facts.device)

    def _guidance_embedding(self, request: ImageRequest) -> torch.Tensor:
        """Sinusoidal embedding of guidance - 1 (arXiv:2310.04378), as diffusers computes it."""
        facts = self.backend.facts
        dim = facts.guidance_embedding_dim or 0
        w = torch.tensor([request.guidance_scale - 1]) * 1000.0
        half = dim // 2
        step = torch.log(torch.tensor(10000.0)) / (half - 1)
        freqs = torch.exp(torch.arange(half, dtype=torch.float32) * -step)
        angles = w[:, None] * freqs[None, :]
        out = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
        if dim % 2 == 1:
            out = torch.nn.functional.pad(out, (0, 1))
        return out.to(device=facts.device, dtype=facts.dtype)
