"""The UNet stage: v-prediction on designed latents, with captions dropped for guidance."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models import checkpoint, corpus, decoding, language, latents, networks
from models.loop import Loop, late_decay
from models.prompts import GRID

_BATCH = 64
_DROPPED = 0.1  # of all captions, so that the model also knows "no caption"
# Between these shares of the budget all scenes; before and after only those with everything in its
# usual place: shapes are learned sooner from them, and edges end crisper.
_WOBBLY = (0.3, 0.6)


def train(folder: Path, budget: float, seed: int, init: Path | None = None) -> None:
    """Train to `folder`/unet.safetensors, with a grid of samples every few minutes.

    `init` is a model folder whose UNet to begin with. Two threads, or one while the decoder
    stage works beside it.
    """
    codes = corpus.open_array(folder / "latents.npy")
    encoder, words = language.load_trained(folder)
    states = language.States(encoder, words, json.loads((folder / "captions.json").read_text()))
    empty = language.encode(encoder, words, [""])[0]
    grid_states = language.encode(encoder, words, list(GRID))
    basis = corpus.load_basis(folder / "basis.safetensors")
    torch.manual_seed(seed)
    unet = networks.denoiser()
    if init is not None:
        unet.load_state_dict(type(unet).from_pretrained(init / "unet").float().state_dict())
    unet.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    loop = Loop(
        "unet", folder / "unet.safetensors", unet, optimizer, budget, late_decay, average=0.998
    )
    shares = networks.signal_shares()
    chooser = np.random.default_rng((seed, loop.step))
    torch.manual_seed(seed + loop.step)

    def loss(share: float) -> Tensor:
        threads = 1 if decoding.is_running(folder) else 2
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        stride = 1 if _WOBBLY[0] <= share < _WOBBLY[1] else 2
        rows = np.sort(chooser.integers(0, -(-len(codes) // stride), _BATCH)) * stride
        clean = torch.from_numpy(codes[rows]).float()
        text = states(rows)
        text = torch.where(torch.rand(_BATCH, 1, 1) < _DROPPED, empty, text)
        times = _times(len(shares))
        signal = shares[times].sqrt()[:, None, None, None]
        noise_share = (1 - shares[times]).sqrt()[:, None, None, None]
        noise = torch.randn_like(clean)
        mixed = signal * clean + noise_share * noise
        target = signal * noise - noise_share * clean
        mixed = mixed.contiguous(memory_format=torch.channels_last)
        guess = unet(mixed, times, text, return_dict=False)[0]
        return functional.mse_loss(guess, target)

    trial = networks.denoiser().eval()

    def show() -> None:
        trial.load_state_dict(loop.ema)
        made = networks.sample(trial, grid_states, empty, seed=1)
        pictures = latents.to_bytes(basis.decode(made)).numpy()
        save_grid(folder / "samples" / f"step-{loop.step:06d}.png", pictures)

    loop.run(loss, show)


def _times(count: int) -> Tensor:
    """Training steps int64 [_BATCH]: half from all, half from the middle, where shapes form."""
    anywhere = torch.randint(0, count, (_BATCH,))
    middle = torch.randint(count * 15 // 100, count * 75 // 100, (_BATCH,))
    return torch.where(torch.rand(_BATCH) < 0.5, anywhere, middle)


def save_grid(path: Path, pictures: np.ndarray, columns: int = 8, scale: int = 2) -> None:
    """Write uint8 [N, 64, 64, 3] as one PNG, rows of `columns`, enlarged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = -(-len(pictures) // columns)
    _, height, width, _ = pictures.shape
    sheet = Image.new("RGB", (columns * width * scale, rows * height * scale), (255, 255, 255))
    for k, picture in enumerate(pictures):
        tile = Image.fromarray(picture).resize(
            (width * scale, height * scale), Image.Resampling.NEAREST
        )
        sheet.paste(tile, (k % columns * width * scale, k // columns * height * scale))
    try:
        sheet.save(path, optimize=True)
    except OSError as error:
        raise checkpoint.TrainingError(f"cannot write {path}: {error}") from error
