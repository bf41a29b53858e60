"""The CPU backend: eager torch on this process' cores."""

from __future__ import annotations

import os

import torch

from deployments.backends.pipeline import PipelineBackend
from deployments.model import load_pipeline
from deployments.options import ReplicaOptions

# On shared cores a decode thread only steals from the steps: decode between them, in batches.
DECODE_BATCH = 4


def create(options: ReplicaOptions) -> PipelineBackend:
    """Load the model in float32 (or as told) and use every core this process may run on."""
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    dtype = getattr(torch, options.dtype or "float32")
    return PipelineBackend(
        load_pipeline(options.model_source, options.model_revision),
        device=torch.device("cpu"),
        dtype=dtype,
        fixed_rows=options.max_rows if options.deterministic else None,
        decode_batch=1 if options.deterministic else DECODE_BATCH,
        overlap_decode=False,
    )
