"""The safety checker that finished pictures must pass: diffusers' own, by CLIP embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPImageProcessor

from deployments.model_info import ModelError, local_folder

# A model in diffusers' layout has the two in these folders; a repository of the checker has them
# at its top.
_CHECKER, _PROCESSOR = "safety_checker", "feature_extractor"
_FILES = ["*.json", "*.safetensors"]
_TOP_FILES = ["config.json", "preprocessor_config.json", "model.safetensors"]


class SafetyChecker:
    """Says whether a picture may be shown. Runs in float32 on the CPU, in the finishing thread.

    Args:
        checker: diffusers' model.
        processor: resizes and normalises for it.
    """

    def __init__(self, checker: Any, processor: Any) -> None:
        self._checker = checker.eval()
        self._processor = processor

    def passes(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether ``[height, width, 3]`` pixels are safe to show."""
        clip = self._processor(images=[Image.fromarray(pixels)], return_tensors="pt").pixel_values
        with torch.inference_mode():
            # It blackens what it flags, in place: it gets a copy of one pixel.
            _, flagged = self._checker(images=[np.zeros((1, 1, 3))], clip_input=clip)
        return not flagged[0]


def load_checker(source: str | None, revision: str | None) -> SafetyChecker | None:
    """The checker in a folder or Hub repository; ``None`` for no source.

    Raises:
        ModelError: it does not load. No picture goes unchecked instead.
    """
    if source is None:
        return None
    try:
        folder = local_folder(source) or _fetch(source, revision)
        checker = folder / _CHECKER if (folder / _CHECKER).is_dir() else folder
        processor = folder / _PROCESSOR if (folder / _PROCESSOR).is_dir() else folder
        return SafetyChecker(
            StableDiffusionSafetyChecker.from_pretrained(
                str(checker), use_safetensors=True, local_files_only=True
            ),
            CLIPImageProcessor.from_pretrained(str(processor), local_files_only=True),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"safety.source: {source!r} does not load: {error}") from error


def _fetch(source: str, revision: str | None) -> Path:
    """Only the checker's files of a Hub repository, whichever layout it has."""
    parts = [f"{part}/{file}" for part in (_CHECKER, _PROCESSOR) for file in _FILES]
    return Path(snapshot_download(source, revision=revision, allow_patterns=[*_TOP_FILES, *parts]))
