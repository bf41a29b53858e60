"""Stable Diffusion models of random weights: a step takes a few milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

Kind = Literal["sd1", "sd2", "sdxl", "lcm", "inpaint", "xl_inpaint"]
KINDS: tuple[Kind, ...] = ("sd1", "sd2", "sdxl", "lcm", "inpaint", "xl_inpaint")
# Channels of an inpainting UNet: latent, mask, latent of the masked picture.
SEEN = 4 + 1 + 4

WINDOW = 16
DIM = 16
BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def build(kind: Kind, folder: Path) -> Path:
    """Save a model of 16 x 16 pictures (latents 8 x 8) in stock diffusers layout."""
    torch.manual_seed(KINDS.index(kind))
    inpainting = {"in_channels": SEEN} if kind in ("inpaint", "xl_inpaint") else {}
    if kind in ("sdxl", "xl_inpaint"):
        cls = StableDiffusionXLInpaintPipeline if inpainting else StableDiffusionXLPipeline
        pipe = cls(
            vae=_vae(),
            text_encoder=_text(CLIPTextModel),
            text_encoder_2=_text(CLIPTextModelWithProjection),
            tokenizer=_tokenizer(),
            tokenizer_2=_tokenizer(),
            unet=_unet(
                cross_attention_dim=2 * DIM,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + DIM,
                **inpainting,
            ),
            scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
            add_watermarker=False,
        )
    else:
        cls = StableDiffusionInpaintPipeline if inpainting else StableDiffusionPipeline
        pipe = cls(
            vae=_vae(),
            text_encoder=_text(CLIPTextModel),
            tokenizer=_tokenizer(),
            unet=_unet(
                cross_attention_dim=DIM,
                time_cond_proj_dim=8 if kind == "lcm" else None,
                **inpainting,
            ),
            scheduler=_scheduler(kind),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(str(folder))
    return folder


def _scheduler(kind: Kind) -> Any:
    """What the real models ship: PNDM for SD 1, DDIM on velocity for SD 2."""
    if kind in ("sd1", "inpaint"):
        return PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False)
    if kind == "sd2":
        return DDIMScheduler(
            **BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
        )
    return LCMScheduler(**{k: v for k, v in BETAS.items() if k != "steps_offset"})


def _tokenizer() -> Any:
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as folder:  # transformers 4 takes files alone
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=WINDOW)


def _text(cls: Any) -> Any:
    end = 2 * 94 + 1
    return cls(
        CLIPTextConfig(
            vocab_size=end + 1,
            hidden_size=DIM,
            intermediate_size=2 * DIM,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=DIM,
            max_position_embeddings=WINDOW,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def _unet(**more: Any) -> Any:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **more,
    )


def _vae() -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
