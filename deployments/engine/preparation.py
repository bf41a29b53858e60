"""From request to prepared job: encodings, scheduler, starting noise; off the loop."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from deployments.backends.base import Backend, TextEmbedding
from deployments.engine.inpainting import Kept, read_mask, to_cells
from deployments.engine.job import Conditioning, Job
from deployments.engine.previews import preview_steps
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
            self._queue.hand_over(*job.path.tensors, *job.text.tensors)
        # Megabytes that nobody needs any more.
        job.request = replace(job.request, init_rgb=None, mask=None)
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
        job.trajectory = self._trajectory(request, generator)
        if job.watch is not None:
            job.preview_steps = preview_steps(job.path.remaining, request.previews)

    def _trajectory(self, request: ImageRequest, generator: torch.Generator) -> Trajectory:
        """The order of draws is that of diffusers' pipelines: picture, noise, masked picture."""
        facts = self.backend.facts
        size = (request.height, request.width)
        height, width = (side // facts.scale_factor for side in size)
        rgb = None
        if request.init_rgb is not None:
            rgb = np.frombuffer(request.init_rgb, np.uint8).reshape(*size, 3).copy()
        mask = read_mask(request)
        if mask is None and facts.mask_conditioned:
            mask = np.ones(size, np.bool_)  # without a mask everything may change
        fresh = mask is not None and request.strength in (None, 1.0)
        init = None
        if rgb is not None and not (fresh and facts.mask_conditioned):
            init = self.backend.encode_image(rgb, generator)
            if mask is not None:
                # Laid out as in diffusers: the last bits of the UNet's convolutions depend on it.
                init = init.contiguous()
        trajectory = Trajectory(
            scheduler=make_scheduler(request.scheduler, facts.scheduler),
            steps=request.num_inference_steps,
            strength=request.strength,
            init_latents=init,
            fresh=fresh,
            shape=(1, facts.latent_channels, height, width),
            dtype=facts.dtype,
            device=torch.device(facts.device),
            generator=generator,
        )
        if mask is None:
            return trajectory
        cells = to_cells(mask, facts)
        if facts.mask_conditioned:
            blank = np.zeros((*size, 3), np.uint8) if rgb is None else rgb
            trajectory.show(cells, self.backend.encode_image(blank, generator, mask))
        elif init is not None:
            # Diffusers encodes the masked picture here for ordinary UNets too, though none looks
            # at it. Its draw is made, so that a noisy scheduler goes on with the same numbers.
            randn_tensor(init.shape, generator=generator, device=init.device, dtype=init.dtype)
            trajectory.keep(Kept(cells, init))
        return trajectory

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
