"""Jobs to rows and back: one denoising step for several requests in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deployments.backends.base import Backend, DenoiseBatch, TextEmbedding
from deployments.engine.job import Job
from deployments.engine.transfer import to_device

# A scaled sample ``[1, channels, h, w]`` and its timestep, a scalar on the host.
ModelInput = tuple[torch.Tensor, torch.Tensor]


@torch.inference_mode()
def run_step(
    backend: Backend, jobs: Sequence[Job], inputs: Sequence[ModelInput], rows: int | None
) -> list[torch.Tensor]:
    """One UNet call for jobs of one group; returns each job's guided prediction.

    Args:
        backend: device code.
        jobs: jobs of equal ``group``, in row order.
        inputs: what each job's scheduler wants predicted.
        rows: pad the batch to this many rows; ``None`` for exactly what is needed.
    """
    predictions = backend.denoise(pad(gather(jobs, inputs), rows))
    combined, first = [], 0
    for job in jobs:
        combined.append(combine(predictions[first : first + job.rows], job.request.guidance_scale))
        first += job.rows
    return combined


def gather(jobs: Sequence[Job], inputs: Sequence[ModelInput]) -> DenoiseBatch:
    """Lay the jobs' rows out: unconditional before conditional for a guided one."""
    samples, times, texts = [], [], list[TextEmbedding]()
    for job, (sample, t) in zip(jobs, inputs, strict=True):
        samples += [sample] * job.rows
        times += [t] * job.rows
        if job.text.negative is not None:
            texts.append(job.text.negative)
        texts.append(job.text.positive)
    return DenoiseBatch(
        latents=torch.cat(samples),
        timesteps=to_device(torch.stack(times), samples[0].device),
        hidden=torch.cat([text.hidden for text in texts]),
        pooled=_cat([text.pooled for text in texts]),
        time_ids=_cat([job.text.time_ids for job in jobs for _ in range(job.rows)]),
        timestep_cond=_cat([job.text.timestep_cond for job in jobs for _ in range(job.rows)]),
        adapters=_cat([job.text.adapter for job in jobs for _ in range(job.rows)])
        if any(job.request.lora for job in jobs)
        else None,
    )


def pad(batch: DenoiseBatch, rows: int | None) -> DenoiseBatch:
    """Fill idle rows with zeros, as a statically shaped graph needs."""
    if rows is None or rows <= batch.latents.shape[0]:
        return batch
    return batch.each(lambda x: pad_rows(x, rows))


def pad_rows(x: torch.Tensor, rows: int) -> torch.Tensor:
    """``x`` with rows of zeros behind, up to ``rows``."""
    missing = rows - x.shape[0]
    return x if missing <= 0 else torch.cat([x, x.new_zeros(missing, *x.shape[1:])])


def combine(prediction: torch.Tensor, guidance: float) -> torch.Tensor:
    """Classifier-free guidance (arXiv:2207.12598): ``[rows, …]`` to ``[1, …]``."""
    if prediction.shape[0] == 1:
        return prediction
    unconditional, conditional = prediction.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def _cat(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
