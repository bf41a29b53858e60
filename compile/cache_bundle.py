"""torch's own compile caches in one file, for replicas that compile just in time.

They shorten torch.compile where torch, Triton and the GPU are the same. As a package of native
code, a bundle runs whatever is in it: load one only from a registry you control.
"""

from __future__ import annotations

from pathlib import Path

import torch

from compile.examples import make_inputs
from compile.exporters.base import ExportRequest
from compile.jit import compile_module
from compile.manifest import ArtifactError
from compile.modules import load
from compile.parts import ModelShape

BUNDLE = "torch-cache.bin"


def save(snapshot: Path, target: Path, request: ExportRequest) -> None:
    """Compile every part just in time, as a replica would, and keep what torch cached of it."""
    shape = ModelShape(snapshot)
    device = torch.device("cuda" if request.accelerator == "cuda" else "cpu")
    for part in shape.parts(request):
        dtype = shape.vae_dtype(request.dtype) if part.component == "vae_decoder" else request.dtype
        module = load(snapshot, part.component, dtype, device)
        if request.accelerator == "cuda":
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compiled = compile_module(module)
        # Made in inference mode, as the engine's are: else torch caches another graph.
        with torch.inference_mode():
            inputs = make_inputs(part.inputs, snapshot, seed=0)
            compiled(*(inputs[one.name].to(device) for one in part.inputs))
    artifacts = torch.compiler.save_cache_artifacts()
    if artifacts is None:
        raise ArtifactError(f"{BUNDLE}: torch cached nothing")
    (target / BUNDLE).write_bytes(artifacts[0])


def load_bundle(folder: Path) -> None:
    """Hand an artifact's bundle to torch.

    Raises:
        ArtifactError: it has none, or torch does not take it.
    """
    path = folder / BUNDLE
    if not path.is_file():
        raise ArtifactError(f"{BUNDLE}: the artifact has none; compile with --cache-bundle")
    if torch.compiler.load_cache_artifacts(path.read_bytes()) is None:
        raise ArtifactError(f"{BUNDLE}: torch {torch.__version__} does not take it")
