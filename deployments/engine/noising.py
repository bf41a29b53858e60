"""Noise on clean latents without a wait for the device that holds them."""

from __future__ import annotations

from typing import Any

import torch


def add_noise(
    scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, due: torch.Tensor
) -> torch.Tensor:
    """``scheduler.add_noise``: the same sum to the bit, its two factors found on the host.

    The schedulers look them up where the latents are, which has the host wait for a device.

    Args:
        scheduler: of diffusers; not told of the device.
        latents: clean, ``[1, channels, h, w]``.
        noise: of their shape and dtype.
        due: the timestep, ``[1]``, on the host.
    """
    one = torch.ones(1, 1, 1, 1, dtype=noise.dtype)
    none = torch.zeros_like(one)
    signal, level = (
        scheduler.add_noise(*pair, due).reshape(()) for pair in ((one, none), (none, one))
    )
    noised: torch.Tensor = signal * latents + level * noise
    return noised
