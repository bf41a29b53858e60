"""Loading a Stable Diffusion pipeline: safetensors only, only the files needed, no remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download

from deployments.model_info import ModelError, local_folder

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
# Pipelines differ in how they are called, not in their parts: any of these names loads as SD or SDXL.
SD_CLASSES = frozenset(
    {
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
    }
)
XL_CLASSES = frozenset({"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"})


def load_pipeline(source: str, revision: str | None) -> Pipeline:
    """Load a model in float32 on the CPU; the backend moves and casts it.

    Raises:
        ModelError: not a Stable Diffusion model, or files are missing.
    """
    folder = local_folder(source)
    index = _index(source, revision, folder)
    name = str(index.get("_class_name"))
    if name in SD_CLASSES:
        cls, extra = StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}
        extra |= {"image_encoder": None, "requires_safety_checker": False}
    elif name in XL_CLASSES:
        cls, extra = StableDiffusionXLPipeline, {"feature_extractor": None, "image_encoder": None}
        extra |= {"add_watermarker": False}
    else:
        allowed = ", ".join(sorted(SD_CLASSES | XL_CLASSES))
        raise ModelError(f"model_index.json: _class_name is {name!r}; supported: {allowed}")
    diffusers_logging.disable_progress_bar()
    try:
        pipe = cls.from_pretrained(
            str(folder) if folder else source,
            revision=revision,
            use_safetensors=True,
            local_files_only=folder is not None,
            **extra,
        )
    except OSError as error:
        raise ModelError(f"model.source: {source!r} does not load: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _index(source: str, revision: str | None, folder: Path | None) -> dict[str, Any]:
    if folder is None:
        path = Path(hf_hub_download(source, "model_index.json", revision=revision))
    else:
        path = folder / "model_index.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model.source: {source!r}: model_index.json: {error}") from error
    return data
