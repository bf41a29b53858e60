"""Loading a Stable Diffusion pipeline: safetensors only, only the files needed, no remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from deployments.model_info import ModelError, local_folder
from deployments.startup import stage

# diffusers is untyped; this names what it is.
Pipeline: TypeAlias = Any
# Pipelines differ in how they are called, not in their parts: these load as SD or SDXL.
SD_CLASSES = frozenset(
    {
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
    }
)
XL_CLASSES = frozenset(
    {
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    }
)

# Parts that are never fetched: they are not used here, and the safety checker alone is 1.2 GB.
SD_ABSENT: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "requires_safety_checker": False,
}
XL_ABSENT: dict[str, Any] = {
    "feature_extractor": None,
    "image_encoder": None,
    "add_watermarker": False,
}


def load_pipeline(source: str, revision: str | None) -> Pipeline:
    """Load a model in float32 on the CPU; the backend moves and casts it.

    Raises:
        ModelError: not a Stable Diffusion model, or files are missing.
    """
    folder = local_folder(source)
    index = _index(source, revision, folder)
    name = str(index.get("_class_name"))
    if name in SD_CLASSES:
        cls, extra = StableDiffusionPipeline, SD_ABSENT
    elif name in XL_CLASSES:
        cls, extra = StableDiffusionXLPipeline, XL_ABSENT
    else:
        allowed = ", ".join(sorted(SD_CLASSES | XL_CLASSES))
        raise ModelError(f"model_index.json: _class_name is {name!r}; supported: {allowed}")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        if folder is None:
            with stage("download"):
                folder = Path(
                    cls.download(source, revision=revision, use_safetensors=True, **extra)
                )
        pipe = cls.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, **extra
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model.source: {source!r} does not load: {error}") from error
    _check_parts(source, pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _check_parts(source: str, pipe: Pipeline) -> None:
    """Refuse what loads but cannot paint from text here: XL refiners and other editing UNets."""
    channels, latent = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if channels not in (latent, 2 * latent + 1):
        raise ModelError(
            f"model.source: {source!r}: unet/config.json: in_channels is {channels}; needed: "
            f"{latent}, or {2 * latent + 1} for an inpainting model"
        )
    if pipe.text_encoder is None or pipe.tokenizer is None:
        raise ModelError(
            f"model.source: {source!r}: model_index.json: text_encoder and tokenizer needed "
            "(refiners are not supported)"
        )


def _index(source: str, revision: str | None, folder: Path | None) -> dict[str, Any]:
    try:
        if folder is None:
            path = Path(hf_hub_download(source, "model_index.json", revision=revision))
        else:
            path = folder / "model_index.json"
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.source: {source!r}: model_index.json: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"model.source: {source!r}: model_index.json: a JSON object needed")
    return data
