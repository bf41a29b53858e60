"""The CUDA backend, first version: eager half precision with SDPA; compilation is not here yet."""

from __future__ import annotations

import torch

from deployments.backends.packaged import GraphSource
from deployments.backends.pipeline import PipelineBackend
from deployments.model import load_pipeline
from deployments.options import ReplicaOptions

DECODE_BATCH = 4


def create(options: ReplicaOptions, graphs: GraphSource | None = None) -> PipelineBackend:
    """Load the model on the GPU that Ray assigned.

    Args:
        options: what the replica was told.
        graphs: compiled ones to run in the place of the model's own parts.

    Raises:
        RuntimeError: torch sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"pool {options.pool!r}: framework 'cuda' needs a CUDA build of torch and a GPU; "
            f"torch {torch.__version__} sees none"
        )
    backend = PipelineBackend(
        load_pipeline(options.model_source, options.model_revision),
        device=torch.device("cuda", 0),
        dtype=getattr(torch, options.dtype or "bfloat16"),
        fixed_rows=options.max_rows if options.deterministic else None,
        decode_batch=1 if options.deterministic else DECODE_BATCH,
        overlap_decode=False,
    )
    if graphs is not None:
        graphs.attach(backend)
    return backend
