"""A stand-in for an accelerator that is not here: the CPU paints, the clock pretends.

Pictures are real, made by the same engine; only the time they take is that of the hardware
named in the settings. Everything that shows such a pool says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.backends.base import Backend, DenoiseBatch, TextEmbedding
from deployments.backends.cpu import create as create_cpu
from deployments.backends.packaged import GraphSource
from deployments.options import ReplicaOptions


class EmulatedBackend:
    """Another backend, slowed down so that each denoising step takes a given time.

    What the host does between two steps (decoding, encoding) is made up for in the next one, by at
    most half a step: beside an accelerator it would take place meanwhile.

    Args:
        inner: paints.
        step_s: seconds of one step, whatever its rows; a step that takes longer is not shortened.
    """

    def __init__(self, inner: Backend, step_s: float) -> None:
        self._inner = inner
        self._step_s = step_s
        self._ended = -math.inf
        self.facts = inner.facts

    def encode_prompt(self, text: str, lora: str | None = None) -> TextEmbedding:
        """See ``Backend``."""
        return self._inner.encode_prompt(text, lora)

    def encode_image(
        self,
        rgb: NDArray[np.uint8],
        generator: torch.Generator,
        blank: NDArray[np.bool_] | None = None,
    ) -> torch.Tensor:
        """See ``Backend``."""
        return self._inner.encode_image(rgb, generator, blank)

    def denoise(self, batch: DenoiseBatch) -> torch.Tensor:
        """See ``Backend``; returns no earlier than ``step_s`` after the step before."""
        now, step_s = time.monotonic(), self._step_s
        between = now - self._ended
        # A longer break was no work but idleness.
        due = now + step_s - (min(between, step_s / 2) if between < step_s else 0.0)
        prediction = self._inner.denoise(batch)
        time.sleep(max(0.0, due - time.monotonic()))
        self._ended = time.monotonic()
        return prediction

    def decode(self, latents: torch.Tensor) -> Sequence[NDArray[np.uint8] | None]:
        """See ``Backend``."""
        return self._inner.decode(latents)


def create(options: ReplicaOptions, graphs: GraphSource | None = None) -> EmulatedBackend:
    """The CPU backend, slowed down.

    Args:
        options: what the replica was told.
        graphs: compiled ones to run in the place of the model's own parts.

    Raises:
        ValueError: no step time is given.
    """
    if options.emulated_step_s is None:
        raise ValueError("emulated_step_s: missing; framework 'emulated' needs it")
    return EmulatedBackend(create_cpu(options, graphs), options.emulated_step_s)
