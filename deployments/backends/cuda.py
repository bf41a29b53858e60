"""The CUDA backend: half precision, compiled on fixed batch sizes, memory measured at start.

What runs here does so on any torch device (``bucketed``); this file is what only a GPU has. A pool
with an artifact runs its graphs instead (``packaged``), and nothing is compiled here.
"""

from __future__ import annotations

import torch

from deployments.backends.bucketed import BucketedBackend
from deployments.backends.compiled import inductor
from deployments.backends.graphs import CudaGraphs
from deployments.backends.memory import CudaMemory
from deployments.backends.packaged import GraphSource
from deployments.backends.pipeline import PipelineBackend
from deployments.lora.loading import add_adapters
from deployments.model import load_pipeline
from deployments.options import ReplicaOptions

# Ampere. Before it bfloat16 is emulated, and float16 many times as fast.
_BFLOAT16_SINCE = (8, 0)
# Of an artifact's pool; others look at the memory.
_DECODE_BATCH = 4


def create(options: ReplicaOptions, graphs: GraphSource | None = None) -> PipelineBackend:
    """Load the model on the GPU that Ray assigned, and compile it or take what was compiled.

    Without ``graphs`` every batch size that fits the memory is compiled as the options say, and
    warmed. With them their batches are what there is: ``torch_compile``, ``compiled_sizes`` and
    ``cuda_graphs`` have no effect, and what does not fit the memory runs in parts.

    Attention is ``scaled_dot_product_attention``, diffusers' own default.

    Args:
        options: what the replica was told.
        graphs: compiled ones to run in the place of the model's own parts.

    Raises:
        RuntimeError: torch sees no CUDA device, or the model does not fit it.
        ArtifactError: the graphs do not suit the model.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"pool {options.pool!r}: framework 'cuda' needs a CUDA build of torch and a GPU; "
            f"torch {torch.__version__} sees none"
        )
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    set_up_torch(options.deterministic)
    dtype = getattr(torch, options.dtype or default_dtype(torch.cuda.get_device_capability()))
    pipe = load_pipeline(options.model_source, options.model_revision)
    adapters = add_adapters(pipe, options.loras, options.fuse_lora)
    if graphs is not None:
        backend = PipelineBackend(
            pipe,
            device=device,
            dtype=dtype,
            fixed_rows=options.max_rows if options.deterministic else None,
            decode_batch=1 if options.deterministic else _DECODE_BATCH,
            overlap_decode=True,
            adapters=adapters,
        )
        graphs.attach(backend)
        return backend
    compiling = options.torch_compile != "off"
    return BucketedBackend(
        pipe,
        device=device,
        dtype=dtype,
        most_rows=options.max_rows,
        deterministic=options.deterministic,
        sizes=options.compiled_sizes,
        memory=CudaMemory(device),
        compile_it=inductor(options.torch_compile),
        record=CudaGraphs(device) if compiling and options.cuda_graphs else None,
        read=torch.cuda.synchronize,
        adapters=adapters,
    )


def default_dtype(capability: tuple[int, int]) -> str:
    """The half precision that the GPU of this compute capability is made for."""
    return "bfloat16" if capability >= _BFLOAT16_SINCE else "float16"


def set_up_torch(deterministic: bool) -> None:
    """Choose kernels for this process."""
    # TF32: what is left in float32 (SDXL's VAE in float16, a float32 pool) runs on tensor cores.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    # Shapes are few and fixed: the fastest convolution is looked for once. What is looked for
    # may differ from start to start, and with it the last bits.
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
