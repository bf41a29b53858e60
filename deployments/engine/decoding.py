"""Turning finished latents into pictures without stalling the steps of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.backends.base import Backend
from deployments.engine.job import Job

# Finishers wait this many steps for company: naive decoding at batch 1 costs ~8 % of capacity.
DEFER_STEPS = 3

Decoded = Callable[[Job, NDArray[np.uint8]], None]


class Decoder:
    """Decodes in batches: when one is full, when its oldest has waited, or when idle.

    Args:
        backend: device code.
        deliver: called with each job and its picture ``[height, width, 3]``.
        defer_steps: most denoising steps a finished latent waits for company.
    """

    def __init__(self, backend: Backend, deliver: Decoded, defer_steps: int = DEFER_STEPS) -> None:
        self._backend = backend
        self._deliver = deliver
        self._defer_steps = defer_steps
        self._queue: deque[tuple[Job, int]] = deque()
        self._tick = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, job: Job) -> None:
        """Queue a finished job."""
        self._queue.append((job, self._tick))

    def drop(self, unwanted: Callable[[Job], bool]) -> None:
        """Forget jobs nobody waits for."""
        self._queue = deque(entry for entry in self._queue if not unwanted(entry[0]))

    def tick(self, idle: bool) -> bool:
        """Decode at most one batch, if one is due; a device error fails that batch and rises."""
        self._tick += 1
        if not self._queue:
            return False
        waited = self._tick - self._queue[0][1]
        due = idle or waited > self._defer_steps
        if not due and len(self._queue) < self._backend.facts.decode_batch:
            return False
        self._run(self._take())
        return True

    def _take(self) -> list[Job]:
        """The oldest job and those of its shape, at most one decode batch."""
        shape = self._queue[0][0].path.latents.shape
        taken: list[Job] = []
        rest: deque[tuple[Job, int]] = deque()
        for job, since in self._queue:
            fits = job.path.latents.shape == shape and len(taken) < self._backend.facts.decode_batch
            if fits:
                taken.append(job)
            else:
                rest.append((job, since))
        self._queue = rest
        return taken

    def _run(self, jobs: Sequence[Job]) -> None:
        try:
            pictures = self._backend.decode(torch.cat([job.path.latents for job in jobs]))
        except Exception as error:
            for job in jobs:
                job.fail("device_error", f"decoding failed: {error}", retryable=True)
            raise
        for job, picture in zip(jobs, pictures, strict=True):
            self._deliver(job, picture)
