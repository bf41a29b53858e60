"""Models of Stable Diffusion's published shapes with random weights: nothing is downloaded.

Speed does not depend on the weights. The shapes are those of the models' ``config.json`` files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WINDOW = 77


@dataclass(frozen=True)
class Shape:
    """One model's networks.

    Attributes:
        unet: arguments of the UNet.
        texts: arguments of one or two text encoders.
        vae: arguments of the VAE.
    """

    unet: dict[str, Any]
    texts: tuple[dict[str, Any], ...]
    vae: dict[str, Any]


_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
_CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_OPENCLIP_H: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
_OPENCLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_SD_UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
}
SHAPES: dict[str, Shape] = {
    "sd15": Shape(
        unet=_SD_UNET | {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
        texts=(_CLIP_L,),
        vae=_VAE,
    ),
    "sd21": Shape(
        unet=_SD_UNET
        | {
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "sample_size": 64,
        },
        texts=(_OPENCLIP_H,),
        vae=_VAE,
    ),
    "sdxl": Shape(
        unet={
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
            "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
            "layers_per_block": 2,
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "sample_size": 128,
        },
        texts=(_CLIP_L, _OPENCLIP_G),
        vae=_VAE | {"scaling_factor": 0.13025, "force_upcast": False, "sample_size": 1024},
    ),
    # For trying the benchmark out on a CPU: SDXL's kind of layers, a thousand times smaller.
    "tiny": Shape(
        unet={
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            "sample_size": 8,
        },
        texts=(
            {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "projection_dim": 16,
            },
        ),
        vae={
            "block_out_channels": (8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": 16,
        },
    ),
}


def build(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A pipeline of this shape on the device; random weights of a fixed seed."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            unet = UNet2DConditionModel(**shape.unet)
            vae = AutoencoderKL(**shape.vae)
            first = _text(CLIPTextModel, shape.texts[0])
            second = (
                _text(CLIPTextModelWithProjection, shape.texts[1]) if len(shape.texts) > 1 else None
            )
    finally:
        torch.set_default_dtype(before)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    parts = {
        "vae": vae,
        "text_encoder": first,
        "tokenizer": _tokenizer(),
        "unet": unet,
        "scheduler": scheduler,
    }
    pipe: Any
    if second is None:
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    else:
        pipe = StableDiffusionXLPipeline(
            **parts, text_encoder_2=second, tokenizer_2=_tokenizer(), add_watermarker=False
        )
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(device, dtype).eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _tokenizer() -> Any:
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=WINDOW
    )


def _text(cls: Any, arguments: dict[str, Any]) -> Any:
    end = 2 * 94 + 1
    return cls(
        CLIPTextConfig(
            **arguments,
            vocab_size=49408 if arguments["hidden_size"] > 100 else end + 1,
            max_position_embeddings=WINDOW,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
