"""Inputs to compile with and to compare with: seeded, every row different."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from compile.exporters.base import TensorSpec


def make_inputs(specs: Sequence[TensorSpec], folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """By name, on the CPU.

    Args:
        specs: what a graph takes.
        folder: of the model; its text encoder says which tokens there are.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    return {spec.name: _make(spec, folder, generator) for spec in specs}


def _make(spec: TensorSpec, folder: Path, generator: torch.Generator) -> torch.Tensor:
    if spec.name == "input_ids":
        return _tokens(spec.shape, folder, generator)
    if spec.name == "timestep":
        # Rows at different steps, as in a running batch.
        return torch.linspace(981.0, 1.0, spec.shape[0])
    if spec.name == "time_ids":
        size = [512.0, 512.0, 0.0, 0.0, 512.0, 512.0]
        return torch.tensor(size).repeat(spec.shape[0], 1).to(getattr(torch, spec.dtype))
    noise = torch.randn(spec.shape, generator=generator)
    if spec.name == "pixels":
        noise = noise.clamp(-1, 1)
    return noise.to(getattr(torch, spec.dtype))


def _tokens(shape: tuple[int, ...], folder: Path, generator: torch.Generator) -> torch.Tensor:
    config = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    end = config["eos_token_id"]
    # Old configurations name 2, which is not the token that ends CLIP's texts: its last is.
    end = config["vocab_size"] - 1 if end == 2 else end
    ids = torch.randint(0, min(end, config["vocab_size"]), shape, generator=generator)
    ids[:, 0] = config["bos_token_id"]
    ids[:, shape[1] // 2 :] = end
    return ids
