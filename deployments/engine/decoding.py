"""Turning finished latents into pictures without stalling the steps of the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.backends.base import Backend
from deployments.engine.job import Job
from deployments.engine.transfer import mark, own_queue

# Finishers wait at most this many steps for company that is due by then: decoding each at once
# costs a tenth of the capacity (benchmarks/decoding.md).
DEFER_STEPS = 2
# An idle engine looks for arrivals this often while a picture is decoded beside it.
_LOOK_UP_S = 0.002
# A batch being decoded when all else has failed gets so long to end.
_LAST_S = 5.0

Decoded = Callable[[Job, NDArray[np.uint8]], None]


class Decoder:
    """Decodes in batches: when one is full, when no company is due in time, or when idle.

    Where the backend says so, batches are decoded in a thread beside the steps, one at a time;
    else between two steps.

    Attributes:
        running_since: monotonic seconds at which the batch being decoded was begun, if one is.

    Args:
        backend: device code.
        deliver: called with each job and its picture ``[height, width, 3]``.
        defer_steps: most denoising steps a finished latent waits for company.
        reference_pixels: size of picture that the backend's decode batch is meant for; fewer
            larger ones are decoded at once. ``None``: the same number whatever their size.
    """

    def __init__(
        self,
        backend: Backend,
        deliver: Decoded,
        defer_steps: int = DEFER_STEPS,
        reference_pixels: int | None = None,
    ) -> None:
        self._backend = backend
        self._deliver = deliver
        self._defer_steps = defer_steps
        self._reference_pixels = reference_pixels
        self._queue: deque[tuple[Job, int]] = deque()
        self._device = torch.device(backend.facts.device)
        self._tick = 0
        self._beside = (
            # Its own queue on the device, so that decoding runs beside the steps there too.
            ThreadPoolExecutor(1, "decode", initializer=own_queue, initargs=(self._device,))
            if backend.facts.overlap_decode
            else None
        )
        self._running: deque[tuple[Future[None], list[Job]]] = deque()
        self.running_since: float | None = None

    def __len__(self) -> int:
        return len(self._queue) + len(self._running)

    def add(self, job: Job) -> None:
        """Queue a finished job."""
        self._queue.append((job, self._tick))

    def drop(self, unwanted: Callable[[Job], bool]) -> None:
        """Forget jobs nobody waits for."""
        self._queue = deque(entry for entry in self._queue if not unwanted(entry[0]))

    def tick(self, soonest: int | None) -> None:
        """Decode what is due; a device error fails that batch and rises.

        Args:
            soonest: steps until the next running request finishes; ``None`` when none is running.
        """
        self._tick += 1
        if self._beside is None:
            while self._due(soonest):
                self._run(self._take())
                soonest = soonest or 0  # whoever arrived meanwhile takes a step first
            return
        while self._due(soonest):
            jobs = self._take()
            # What the steps have queued by now is what these latents come from.
            ready = mark(self._device)
            self._running.append((self._beside.submit(self._run, jobs, ready), jobs))
            soonest = soonest or 0  # as above
        self._collect(idle=soonest is None)

    def fail_all(self, message: str) -> None:
        """Answer all that wait, and the batches being decoded if they do not end soon."""
        jobs = [job for job, _ in self._queue]
        self._queue.clear()
        for future, batch in self._running:
            future.cancel()
            jobs += batch
        wait([future for future, _ in self._running], timeout=_LAST_S)
        self._running.clear()
        for job in jobs:  # no effect on those that have their answer
            job.fail("device_error", message, retryable=True)

    def close(self) -> None:
        """End the thread, once it has nothing more to do."""
        if self._beside is not None:
            self._beside.shutdown(wait=False, cancel_futures=True)

    def _collect(self, idle: bool) -> None:
        """See to what is decoded beside the steps; when idle, wait for it a little."""
        if idle and self._running:
            wait([self._running[0][0]], timeout=_LOOK_UP_S)
        while self._running and self._running[0][0].done():
            self._running.popleft()[0].result()

    def _due(self, soonest: int | None) -> bool:
        if not self._queue:
            return False
        waited = self._tick - 1 - self._queue[0][1]
        full = len(self._queue) >= self._room(self._queue[0][0])
        return full or soonest is None or waited + soonest > self._defer_steps

    def _room(self, job: Job) -> int:
        """How many pictures of the job's size are decoded at once."""
        room = self._backend.facts.decode_batch
        if self._reference_pixels is None:
            return room
        pixels = job.request.width * job.request.height
        return max(1, min(room, room * self._reference_pixels // pixels))

    def _take(self) -> list[Job]:
        """The oldest job and those of its shape, at most one decode batch."""
        first = self._queue[0][0]
        shape, room = first.path.latents.shape, self._room(first)
        taken: list[Job] = []
        rest: deque[tuple[Job, int]] = deque()
        for job, since in self._queue:
            if job.path.latents.shape == shape and len(taken) < room:
                taken.append(job)
            else:
                rest.append((job, since))
        self._queue = rest
        return taken

    def _run(self, jobs: Sequence[Job], ready: torch.Event | None = None) -> None:
        self.running_since = time.monotonic()
        try:
            if ready is not None:
                ready.wait()
            self._decode(self._finite(jobs))
        except Exception as error:
            for job in jobs:  # no effect on those that have their answer
                job.fail("device_error", f"decoding failed: {error}", retryable=True)
            raise
        finally:
            self.running_since = None

    @torch.inference_mode()
    def _finite(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs whose latents are numbers; the others fail alone.

        Looked at here and not between the steps: reading a value waits for the device, and is
        where one that works asynchronously tells of errors.
        """
        found = torch.stack([torch.isfinite(job.path.latents).all() for job in jobs]).tolist()
        for job, finite in zip(jobs, found, strict=True):
            if not finite:
                job.fail("generation_failed", "the picture's latents are not finite (NaN)")
        return [job for job, finite in zip(jobs, found, strict=True) if finite]

    def _decode(self, jobs: Sequence[Job]) -> None:
        """In one call; where memory is short, in several. What does not fit alone fails alone."""
        if not jobs:
            return
        try:
            pictures = self._backend.decode(torch.cat([job.path.latents for job in jobs]))
        except torch.OutOfMemoryError as error:
            if len(jobs) == 1:
                message = f"decoding the picture does not fit the device's memory: {error}"
                jobs[0].fail("generation_failed", message)
                return
        else:
            for job, picture in zip(jobs, pictures, strict=True):
                if picture is None:
                    job.fail("generation_failed", "the decoded picture is not finite (NaN)")
                else:
                    self._deliver(job, picture)
            return
        half = len(jobs) // 2
        self._decode(jobs[:half])
        self._decode(jobs[half:])
