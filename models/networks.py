"""The four parts of the model in stock diffusers and transformers classes, and its noise."""

from typing import Any, Final

import torch
from torch import Tensor

from models.latents import CHANNELS
from models.scenes import SIZE
from models.tokenizer import LENGTH

WIDTH: Final = 128
"""Width of a text token's hidden state."""
STEPS: Final = 8
GUIDANCE: Final = 2.0
_NOISE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 2e-2,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,  # no effect with this spacing; the pipeline warns about 0
}


def text_encoder(vocabulary: int, end: int, begin: int) -> Any:
    """A three-layer CLIP text model for so many tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=begin,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def autoencoder() -> Any:
    """The stock VAE at factor 8; its latents are those of `models.latents`."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[16, 32, 64, 96],
        layers_per_block=1,
        latent_channels=CHANNELS,
        # One group: with few channels per group, normalising would erase flat colours.
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=SIZE,
        scaling_factor=1.0,
    )


def denoiser() -> Any:
    """The conditional UNet, 4.3 M parameters."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        block_out_channels=[64, 128],
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def scheduler() -> Any:
    """The sampler the model is served with."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**_NOISE)


def signal_shares() -> Tensor:
    """The cumulative signal share ("alpha bar") of each training step, float32 [1000]."""
    betas = torch.linspace(_NOISE["beta_start"], _NOISE["beta_end"], _NOISE["num_train_timesteps"])
    return torch.cumprod(1 - betas, 0)


@torch.no_grad()
def sample(
    unet: Any, hidden: Tensor, empty: Tensor, seed: int, steps: int = STEPS, scale: float = GUIDANCE
) -> Tensor:
    """Latents float32 [N, 16, 8, 8] for text states [N, 32, 128]; `empty` [32, 128]."""
    plan = scheduler()
    plan.set_timesteps(steps)
    size = SIZE // 8
    noise = torch.randn(
        len(hidden), CHANNELS, size, size, generator=torch.Generator().manual_seed(seed)
    )
    both = torch.cat([empty.expand_as(hidden), hidden])
    x: Tensor = noise * plan.init_noise_sigma
    for t in plan.timesteps:
        plain, guided = unet(torch.cat([x, x]), t, both, return_dict=False)[0].chunk(2)
        x = plan.step(plain + scale * (guided - plain), t, x, return_dict=False)[0]
    return x
