"""What a sample would be without its noise, by the model's own prediction at a step."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

# Their samples are the clean latents plus noise of standard deviation sigma; those of the others
# are weighted so that the variance is kept.
VARIANCE_EXPLODING = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)


def predict_clean(
    scheduler: Any, prediction: torch.Tensor, sample: torch.Tensor, timestep: Any, index: int
) -> torch.Tensor:
    """The predicted clean latents (``pred_original_sample``), shaped as ``sample``.

    Multistep schedulers do not hand theirs out, so it is computed here from the noise level:
    ``sample = alpha * clean + sigma * noise`` (arXiv:2006.11239; v-prediction: arXiv:2202.00512).

    Args:
        scheduler: before its step from this sample.
        prediction: of the model, guided, ``[1, channels, h, w]``.
        sample: ``[1, channels, h, w]``.
        timestep: that the prediction is for, on the host; so is the noise level, mostly: taken to
            the device it would have the host wait.
        index: of the timestep among all of the scheduler's.
    """
    if getattr(scheduler, "sigmas", None) is not None and hasattr(scheduler, "step_index"):
        ratio = scheduler.sigmas[index].to(torch.float32)
        alpha = 1 / (ratio**2 + 1) ** 0.5
        sigma = ratio * alpha
        if isinstance(scheduler, VARIANCE_EXPLODING):
            sample = sample * alpha
    else:
        kept = scheduler.alphas_cumprod[int(timestep)].to(torch.float32)
        alpha, sigma = kept**0.5, (1 - kept) ** 0.5
    kind = scheduler.config.prediction_type
    sample, prediction = sample.float(), prediction.float()
    if kind == "sample":
        return prediction
    clean: torch.Tensor
    if kind == "v_prediction":
        clean = alpha * sample - sigma * prediction
    else:
        clean = (sample - sigma * prediction) / alpha
    return clean
