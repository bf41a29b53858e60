"""The CUDA backend: half precision, compiled on fixed batch sizes, memory measured at start.

What runs here does so on any torch device (``bucketed``); this file is what only a GPU has.
"""

from __future__ import annotations

import torch

from deployments.backends.bucketed import BucketedBackend
from deployments.backends.compiled import inductor
from deployments.backends.graphs import CudaGraphs
from deployments.backends.memory import CudaMemory
from deployments.lora.loading import add_adapters
from deployments.model import load_pipeline
from deployments.options import ReplicaOptions

# Ampere. Before it bfloat16 is emulated, and float16 many times as fast.
_BFLOAT16_SINCE = (8, 0)


def create(options: ReplicaOptions) -> BucketedBackend:
    """Load the model on the GPU that Ray assigned, compile and warm every batch size.

    Attention is ``scaled_dot_product_attention``, diffusers' own default.

    Raises:
        RuntimeError: torch sees no CUDA device, or the model does not fit it.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"pool {options.pool!r}: framework 'cuda' needs a CUDA build of torch and a GPU; "
            f"torch {torch.__version__} sees none"
        )
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    set_up_torch(options.deterministic)
    compiling = options.torch_compile != "off"
    pipe = load_pipeline(options.model_source, options.model_revision)
    return BucketedBackend(
        pipe,
        device=device,
        dtype=getattr(torch, options.dtype or default_dtype(torch.cuda.get_device_capability())),
        most_rows=options.max_rows,
        deterministic=options.deterministic,
        sizes=options.compiled_sizes,
        memory=CudaMemory(device),
        compile_it=inductor(options.torch_compile),
        record=CudaGraphs(device) if compiling and options.cuda_graphs else None,
        read=torch.cuda.synchronize,
        adapters=add_adapters(pipe, options.loras, options.fuse_lora),
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
