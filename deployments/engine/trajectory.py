"""One request's way through its scheduler: diffusers' own object, never shared between requests."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils.torch_utils import randn_tensor

from deployments.engine.clean import predict_clean
from deployments.engine.inpainting import Kept
from deployments.engine.noising import add_noise
from deployments.engine.transfer import HostScalars
from deployments.messages import SchedulerName

SCHEDULERS: dict[SchedulerName, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}
# These draw noise while stepping (or may); the others refuse a generator.
NOISY = (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
CLIPPING = (DDIMScheduler, LCMScheduler)
# PNDM only where a model's own config asks for it.
OWN_SCHEDULERS = (*SCHEDULERS.values(), PNDMScheduler)


class RefusedRequestError(ValueError):
    """This request cannot be painted with this scheduler; the message says why."""


def make_scheduler(name: SchedulerName, own: Any) -> Any:
    """A fresh scheduler with the model's configuration.

    Raises:
        RefusedRequestError: the model's own scheduler is not one the engine is tested with.
    """
    cls = type(own) if name == "default" else SCHEDULERS[name]
    if cls not in OWN_SCHEDULERS:
        allowed = ", ".join(SCHEDULERS)
        raise RefusedRequestError(
            f"the model's own scheduler {cls.__name__} is not supported; ask for one of {allowed}"
        )
    # These clip to [-1, 1] by default, which is right for pixels and ruins latents; diffusers'
    # own pipelines turn it off as well.
    unclipped = {"clip_sample": False} if cls in CLIPPING and name != "default" else {}
    return cls.from_config(own.config, **unclipped)


class Trajectory:
    """Latents and scheduler state of one request.

    The order in which random numbers are drawn is that of diffusers' pipelines, so that a seed
    gives the same picture: the starting noise, then one draw per step of a noisy scheduler.

    Attributes:
        latents: ``[1, channels, h, w]``, the current sample.

    Args:
        scheduler: not used by anyone else.
        steps: before ``strength`` shortens them.
        strength: of image-to-image and inpainting.
        init_latents: of the start picture, ``[1, channels, h, w]``.
        fresh: start from noise alone, whether or not there is a start picture.
        shape: of the latents.
        dtype: of the latents.
        device: of the latents.
        generator: of the request alone.

    Raises:
        RefusedRequestError: the scheduler refuses the number of steps, or none is left to take.
    """

    def __init__(
        self,
        *,
        scheduler: Any,
        steps: int,
        strength: float | None,
        init_latents: torch.Tensor | None,
        fresh: bool,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.scheduler = scheduler
        self.generator = generator
        try:
            # On the host: schedulers look at a timestep's value, which is a wait on any device.
            scheduler.set_timesteps(steps, device="cpu")
        except ValueError as error:
            name = type(scheduler).__name__
            raise RefusedRequestError(f"{name} refuses {steps} steps: {error}") from error
        self.timesteps = scheduler.timesteps
        start = 0
        if strength is not None:
            start = max(steps - min(int(steps * strength), steps), 0) * scheduler.order
            self.timesteps = self.timesteps[start:]
            if len(self.timesteps) == 0:
                raise RefusedRequestError(
                    f"strength {strength} of {steps} steps leaves no step to take"
                )
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(start)
        self._noise = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        if fresh or init_latents is None:
            self.latents = self._noise * scheduler.init_noise_sigma
        else:
            self.latents = add_noise(scheduler, init_latents, self._noise, self.timesteps[:1])
        self._start = start
        self._kept: Kept | None = None
        self._seen: torch.Tensor | None = None
        self._extra = {"generator": generator} if isinstance(scheduler, NOISY) else {}
        self._device = device
        self._index = 0

    @property
    def remaining(self) -> int:
        """UNet calls still to come."""
        return len(self.timesteps) - self._index

    @property
    def taken(self) -> int:
        """UNet calls made so far."""
        return self._index

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """All that is on the device."""
        kept = () if self._kept is None else (self._kept.mask, self._kept.latents)
        return (self.latents, self._noise, self._seen, *kept)

    def model_input(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scaled sample ``[1, input channels, h, w]`` and its timestep.

        The timestep is a float32 scalar on the host.
        """
        t = self.timesteps[self._index]
        sample = self.scheduler.scale_model_input(self.latents, t)
        if self._seen is not None:
            sample = torch.cat([sample, self._seen], dim=1)
        # int64 timesteps become float32 without loss; the UNet's time projection does the same.
        return sample, t.to(torch.float32)

    def clean(self, prediction: torch.Tensor) -> torch.Tensor:
        """What ``advance`` with this prediction leads to in the end, roughly: ``[1, c, h, w]``."""
        t = self.timesteps[self._index]
        index = self._start + self._index
        clean = predict_clean(self.scheduler, prediction, self.latents, t, index)
        return clean if self._kept is None else self._kept.over(clean)

    def advance(self, prediction: torch.Tensor) -> None:
        """Take one scheduler step from the model's prediction ``[1, channels, h, w]``."""
        t = self.timesteps[self._index]
        with self._without_waiting():
            self.latents = self.scheduler.step(
                prediction, t, self.latents, **self._extra, return_dict=False
            )[0]
        self._index += 1
        if self._kept is not None:
            due = self.timesteps[self._index : self._index + 1]
            self.latents = self._kept.blend(self.latents, self.scheduler, self._noise, due)

    def keep(self, kept: Kept) -> None:
        """Inpainting with an ordinary UNet: put back what is kept after every step."""
        self._kept = kept

    def show(self, mask: torch.Tensor, masked: torch.Tensor) -> None:
        """Inpainting with a mask-conditioned UNet, which sees these with every sample.

        Args:
            mask: ``[1, 1, h, w]``, 1 where the picture is repainted.
            masked: latent of the picture without what is repainted, ``[1, channels, h, w]``.
        """
        self._seen = torch.cat([mask, masked], dim=1)

    def _without_waiting(self) -> AbstractContextManager[object]:
        return nullcontext() if self._device.type == "cpu" else HostScalars(self._device)
