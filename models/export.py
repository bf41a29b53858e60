"""The model folder: stock diffusers layout, half precision on disk, with its serving defaults."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from models import captions, checkpoint, corpus, decoding, language, networks
from models.scenes import SIZE

PARTS: Final[dict[str, list[str]]] = {
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
LIMIT: Final = 40 << 20
"""Bytes that the folder may hold at most."""


def export(folder: Path, target: Path) -> None:
    """Make the model folder `target` from the checkpoints in `folder`.

    It is built beside the target and then swapped in, so that a failure leaves the old one whole.
    """
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        _write(folder, part)
        size = sum(f.stat().st_size for f in part.rglob("*") if f.is_file())
        if size > LIMIT:
            raise checkpoint.TrainingError(f"the model is {size >> 20} MiB, over the limit of 40")
        old = target.with_name(target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise checkpoint.TrainingError(f"cannot write the model to {target}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(folder: Path, target: Path) -> None:
    found = checkpoint.load(folder / "unet.safetensors")
    if found is None:
        raise checkpoint.TrainingError(f"{folder}/unet.safetensors is missing: run stage 'unet'")
    unet = networks.denoiser()
    unet.load_state_dict(checkpoint.under("ema/", found[0]))
    encoder, _ = language.load_trained(folder)
    modules: dict[str, Any] = {
        "unet": unet,
        "vae": decoding.load_trained(folder),
        "text_encoder": encoder,
    }
    for name, module in modules.items():
        module.to(torch.float16).save_pretrained(target / name, safe_serialization=True)
    # transformers 5 leaves out the prefix that 4.57 needs and that both read.
    weights = target / "text_encoder" / "model.safetensors"
    plain = {k.removeprefix("text_model."): v for k, v in load_file(weights).items()}
    save_file(checkpoint.named("text_model.", plain), weights, metadata={"format": "pt"})
    # transformers 5 would load the text encoder in the type named here, while diffusers loads the
    # others in float32; the two then do not fit together.
    config = target / "text_encoder" / "config.json"
    facts = json.loads(config.read_text())
    facts.pop("torch_dtype", None)
    facts["dtype"] = "float32"
    config.write_text(json.dumps(facts, indent=2) + "\n")
    networks.scheduler().save_pretrained(target / "scheduler")
    # Copied, not made again: the token numbers must be those that the encoder learned.
    shutil.copytree(folder / "tokenizer", target / "tokenizer")
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        **PARTS,
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    serving = {
        "width": SIZE,
        "height": SIZE,
        "num_inference_steps": networks.STEPS,
        "guidance_scale": networks.GUIDANCE,
        "vocabulary": captions.words(),
    }
    (target / "serving.json").write_text(json.dumps(serving, indent=2) + "\n")
    # Not for diffusers: with it training can go on from this folder.
    basis = corpus.load_basis(folder / "basis.safetensors")
    checkpoint.save(target / "latents.safetensors", basis.tensors(), {})
    for file in target.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
