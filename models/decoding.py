"""The VAE stage: a regression that teaches a stock VAE's decoder the designed latents."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import checkpoint, corpus, encoding, latents, networks
from models.loop import Loop, cosine

_CROP = 32  # pixels
_CROPPED = 0.6  # of the budget; then whole pictures, since GroupNorm sees the picture's size
_NOISE = 0.06  # latents the decoder will meet are sampled ones, never quite exact
_MARK = "decoder.running"


def _slopes(unit: Tensor) -> tuple[Tensor, Tensor]:
    return unit[..., 1:, :] - unit[..., :-1, :], unit[..., 1:] - unit[..., :-1]


def train(folder: Path, budget: float, seed: int, init: Path | None = None) -> None:
    """Train to `folder`/decoder.safetensors in so many seconds, on one thread."""
    torch.set_num_threads(1)
    mark = folder / _MARK
    mark.write_text(f"{os.getpid()}\n")
    try:
        _train(folder, budget, seed, init)
    finally:
        mark.unlink(missing_ok=True)


def is_running(folder: Path) -> bool:
    """Whether a process is at work in `train` here; a mark left by a killed one does not count."""
    try:
        os.kill(int((folder / _MARK).read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _train(folder: Path, budget: float, seed: int, init: Path | None) -> None:
    pictures = corpus.open_array(folder / "pictures.npy")
    basis = corpus.load_basis(folder / "basis.safetensors")
    torch.manual_seed(seed)
    vae = networks.autoencoder()
    if init is not None:
        vae.load_state_dict(type(vae).from_pretrained(init / "vae").float().state_dict())
    module = vae.decoder
    optimizer = torch.optim.AdamW(module.parameters(), lr=2.5e-3, betas=(0.9, 0.97), fused=True)
    loop = Loop("decoder", folder / "decoder.safetensors", module, optimizer, budget, cosine)
    chooser = np.random.default_rng((seed, loop.step))

    def loss(share: float) -> Tensor:
        size = 16 if share < _CROPPED else 6
        rows = np.sort(chooser.integers(0, len(pictures), size))
        unit = latents.to_unit(torch.from_numpy(pictures[rows]))
        if share < _CROPPED:
            # Crops on the patch grid, so that their latents are the whole picture's.
            places = unit.shape[-1] // latents.PATCH - _CROP // latents.PATCH + 1
            y, x = (latents.PATCH * int(v) for v in chooser.integers(0, places, 2))
            unit = unit[..., y : y + _CROP, x : x + _CROP]
        codes = basis.encode(unit)
        noisy = codes + torch.randn_like(codes) * _NOISE * torch.rand(size, 1, 1, 1)
        made = module(noisy)
        edges = [
            functional.l1_loss(a, b) for a, b in zip(_slopes(made), _slopes(unit), strict=True)
        ]
        return (
            functional.l1_loss(made, unit)
            + 0.5 * functional.mse_loss(made, unit)
            + 0.5 * (edges[0] + edges[1])
        )

    loop.run(loss)


def load_trained(folder: Path) -> Any:
    """The whole VAE: the trained decoder, and the encoder that needs no training."""
    vae = networks.autoencoder()
    found = checkpoint.load(folder / "decoder.safetensors")
    if found is None:
        raise checkpoint.TrainingError(
            f"{folder}/decoder.safetensors is missing: run stage 'decoder'"
        )
    vae.decoder.load_state_dict(checkpoint.under("module/", found[0]))
    encoding.set_encoder(vae, corpus.load_basis(folder / "basis.safetensors"))
    return vae.eval()
