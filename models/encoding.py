"""The VAE's encoder, set by algebra instead of training: it computes the designed latents."""

from typing import Any, Final

import torch
from torch import Tensor

from models.latents import CHANNELS, PATCH, Basis

# Far above any latent, so that the last normalisation divides by almost the same for each picture.
_CARRIER: Final = 100.0
_LOG_VARIANCE: Final = -12.0


def _silence(block: Any) -> None:
    """Make a residual block pass on its input (through its 1 × 1 shortcut, if it has one)."""
    block.conv2.weight.zero_()
    block.conv2.bias.zero_()
    if block.conv_shortcut is not None:
        block.conv_shortcut.bias.zero_()
        _pass(block.conv_shortcut, block.conv_shortcut.in_channels)


def _pass(layer: Any, count: int) -> None:
    """Make a convolution copy its first `count` channels."""
    middle = layer.kernel_size[0] // 2
    layer.weight.zero_()
    layer.bias.zero_()
    for k in range(count):
        layer.weight[k, k, middle, middle] = 1


def _gather(layer: Any, maps: Tensor) -> None:
    """Make a stride-2 convolution map each 2 × 2 block by `maps` [out, in, 2, 2]."""
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[: maps.shape[0], : maps.shape[1], :2, :2] = maps


@torch.no_grad()
def set_encoder(vae: Any, basis: Basis) -> None:
    """Set a VAE of `networks.autoencoder` so that its latents' mean is `basis.encode`.

    Residual branches are silenced. Three stride-2 convolutions fold 8 × 8 pixels into 16 numbers;
    SiLU is undone exactly by carrying each number with both signs: silu(a) - silu(-a) = a.
    """
    net = vae.encoder
    for block in (*(d.resnets[0] for d in net.down_blocks), *net.mid_block.resnets):
        _silence(block)
    _pass(net.conv_in, 3)
    first, second, third = (d.downsamplers[0].conv for d in net.down_blocks[:3])
    pixels = torch.zeros(12, 3, 2, 2)
    for k in range(12):
        pixels[k, k // 4, k % 4 // 2, k % 2] = 1
    _gather(first, pixels)
    # One row per latent and quarter of the patch: what of 4 × 4 pixels the latent needs.
    whole = (basis.components * basis.scale[:, None]).reshape(CHANNELS, 3, PATCH, PATCH)
    quarters = whole.reshape(CHANNELS, 3, 2, 4, 2, 4).permute(2, 4, 0, 1, 3, 5)
    rows = quarters.reshape(4 * CHANNELS, 48)
    room = second.out_channels
    kept = torch.linalg.svd(rows.double())[2][:room].float()  # [32, 48] orthonormal rows
    # 48 = colour × (2 × 2 blocks) × (2 × 2 pixels); the pixels became channels above.
    fold = kept.reshape(room, 3, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4)
    _gather(second, fold.reshape(room, 12, 2, 2))
    last = (rows @ kept.T).reshape(2, 2, CHANNELS, room).permute(2, 3, 0, 1)
    _gather(third, torch.cat([last, -last]))
    offset = -(basis.mean @ basis.components.T) * basis.scale
    third.bias[: 2 * CHANNELS] = torch.cat([offset, -offset])
    carrier = net.down_blocks[3].resnets[0].conv_shortcut
    carrier.weight[2 * CHANNELS :].zero_()
    carrier.bias[2 * CHANNELS] = _CARRIER
    carrier.bias[2 * CHANNELS + 1] = -_CARRIER
    net.conv_norm_out.weight.fill_(1)
    net.conv_norm_out.bias.zero_()
    channels = net.conv_norm_out.num_channels
    # The carriers' energy and the latents' own expected one (each has mean square 1 on average).
    spread = ((2 * _CARRIER**2 + 2 * CHANNELS) / channels) ** 0.5
    net.conv_out.weight.zero_()
    net.conv_out.bias.zero_()
    for k in range(CHANNELS):
        net.conv_out.weight[k, k, 1, 1] = spread
        net.conv_out.weight[k, k + CHANNELS, 1, 1] = -spread
    _pin_quantisers(vae)


def _pin_quantisers(vae: Any) -> None:
    """Make the 1 × 1 convolutions around the latents identities, the spread negligible."""
    _pass(vae.quant_conv, CHANNELS)
    _pass(vae.post_quant_conv, CHANNELS)
    vae.quant_conv.bias[CHANNELS:] = _LOG_VARIANCE
