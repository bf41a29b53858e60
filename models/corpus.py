"""The training data on disk: latents, captions and some pictures, all generated."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import captions, latents
from models.checkpoint import TrainingError, load, save
from models.scenes import SIZE, draw_training_scene, render

_FIT = 2000  # pictures that the latents' basis is fitted on
_EACH = 7  # one picture of so many is kept for the decoder; odd, so that both sorts are


def need_space(folder: Path, size: int) -> None:
    """Refuse early where fewer than `size` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise TrainingError(
            f"{folder} has {free >> 20} MiB free and this stage needs {size >> 20} MiB; "
            "free some space, choose another --out or ask for fewer --pictures."
        )


def save_array(path: Path, array: Any) -> None:
    """np.save that replaces the old file at once."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.save(file, array)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TrainingError(f"cannot write {path}: {error}") from error


def open_array(path: Path) -> Any:
    """An array that `save_array` wrote, read from disk as needed."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise TrainingError(f"{path} is missing: run the stage 'scenes' first") from error
    except ValueError as error:
        raise TrainingError(f"{path} is broken ({error}): delete it and run 'scenes'") from error


def load_basis(path: Path) -> latents.Basis:
    """The latents' basis that `build` wrote."""
    found = load(path)
    if found is None:
        raise TrainingError(f"{path} is missing: run the stage 'scenes' first")
    return latents.Basis(**found[0])


def build(
    folder: Path, count: int, seed: int, basis: latents.Basis | None = None, wobble: int = 2
) -> None:
    """Write basis.safetensors, latents.npy (float16 [N, 16, 8, 8]), captions.json and
    pictures.npy (uint8 [N/7, 64, 64, 3]); does nothing where they all exist.

    Things lie in their usual places in the even scenes and up to `wobble` pixels beside them in the
    odd ones: see ``denoising`` for when it takes which.
    """
    if (folder / "captions.json").exists():
        return
    need_space(folder, count * 2048 + count // _EACH * 12288 + (64 << 20))
    rng = random.Random(seed)
    texts: list[str] = []
    kept = np.empty((-(-count // _EACH), SIZE, SIZE, 3), np.uint8)
    codes = np.empty((count, latents.CHANNELS, SIZE // 8, SIZE // 8), np.float16)
    block: list[Any] = []
    for k in range(count):
        scene = draw_training_scene(rng, wobble if k % 2 else 0)
        picture = render(scene)
        texts.append(captions.caption(rng, scene))
        if k % _EACH == 0:
            kept[k // _EACH] = picture
        block.append(picture)
        last = k + 1 == count
        if len(block) == _FIT or last:
            unit = latents.to_unit(torch.from_numpy(np.stack(block)))
            basis = basis or latents.fit(unit)
            codes[k + 1 - len(block) : k + 1] = basis.encode(unit).numpy()
            block = []
    if basis is None:
        raise TrainingError("--pictures must be at least 1")
    save(folder / "basis.safetensors", basis.tensors(), {})
    save_array(folder / "pictures.npy", kept)
    save_array(folder / "latents.npy", codes)
    # Last, as the mark that the others are whole.
    part = folder / "captions.json.part"
    part.write_text(json.dumps(texts))
    os.replace(part, folder / "captions.json")
