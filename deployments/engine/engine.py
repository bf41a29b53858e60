"""The step-level batcher: requests join at any step, leave when done, share every forward pass."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.backends.base import Backend
from deployments.engine.admission import POLICIES
from deployments.engine.batch import ModelInput, run_step
from deployments.engine.decoding import DEFER_STEPS, Decoder
from deployments.engine.job import Job
from deployments.options import Admission

Deliver = Callable[[Job, NDArray[np.uint8]], None]
Show = Callable[[Job, torch.Tensor], None]


class Engine:
    """Owns the slots. ``submit`` and ``cancel`` from any thread, ``step`` from one.

    Args:
        backend: device code.
        deliver: gets each finished job and its picture ``[height, width, 3]``.
        show: gets a job of which a preview is due, after the step, and its predicted clean latents
            ``[1, channels, h, w]``; must return at once.
        max_rows: rows of the batch; a guided request takes two.
        reference_pixels: size of picture for which ``max_rows`` and the decode batch were chosen;
            a larger one takes as many times more of them. ``None``: all count the same.
        admission: which waiting job gets the next free rows.
        defer_steps: most steps a finished latent waits to be decoded with others.
    """

    def __init__(
        self,
        backend: Backend,
        deliver: Deliver,
        show: Show = lambda job, clean: None,
        *,
        max_rows: int,
        reference_pixels: int | None = None,
        admission: Admission = "deadline",
        defer_steps: int = DEFER_STEPS,
    ) -> None:
        self.backend = backend
        self.max_rows = backend.facts.fixed_rows or max_rows
        if self.max_rows < 2:
            raise ValueError(f"max_rows: got {self.max_rows}; a guided request needs 2")
        self.fault: str | None = None
        self._show = show
        # Ever counted up; read by the metrics' thread.
        self.steps = self.row_steps = 0
        self._key = POLICIES[admission]
        self._reference_pixels = reference_pixels
        self._decoder = Decoder(backend, deliver, defer_steps, reference_pixels)
        self._lock = threading.Lock()
        self._arrivals: deque[Job] = deque()
        self._waiting: list[Job] = []
        self._slots: list[Job] = []
        self._turn = 0

    @property
    def waiting(self) -> int:
        """Prepared jobs without a slot."""
        return len(self._waiting) + len(self._arrivals)

    @property
    def rows(self) -> int:
        """Rows in use."""
        return sum(job.rows for job in self._slots)

    @property
    def decoding_since(self) -> float | None:
        """Monotonic seconds since which a batch is being decoded, if one is."""
        return self._decoder.running_since

    @property
    def busy(self) -> bool:
        """Whether ``step`` has anything to do."""
        return bool(self._arrivals or self._waiting or self._slots or len(self._decoder))

    def submit(self, job: Job) -> None:
        """Hand in a prepared job."""
        with self._lock:
            self._arrivals.append(job)

    def close(self) -> None:
        """End what runs beside the steps."""
        self._decoder.close()

    def step(self) -> None:
        """Admit, denoise one step for one group, retire what is finished."""
        self._admit()
        group = self._schedule()
        self._denoise(group)
        self._retire(group)

    def fail_all(self, message: str) -> None:
        """Answer every job in the engine with a retryable failure (the replica is going down)."""
        with self._lock:
            jobs = [*self._arrivals, *self._waiting, *self._slots]
            self._arrivals.clear()
        self._waiting, self._slots = [], []
        for job in jobs:
            job.fail("device_error", message, retryable=True)
        self._decoder.fail_all(message)

    def _admit(self) -> None:
        with self._lock:
            self._waiting.extend(self._arrivals)
            self._arrivals.clear()
        self._waiting = [job for job in self._waiting if not self._left(job)]
        self._slots = [job for job in self._slots if not self._left(job)]
        self._decoder.drop(self._left)
        now = time.monotonic()
        self._waiting.sort(key=lambda job: self._key(job, now))
        free = self.max_rows - sum(map(self._load, self._slots))
        # The first in line is never overtaken by a narrower one, else it could starve; one that
        # is larger than the whole batch has it to itself.
        while self._waiting and (self._load(self._waiting[0]) <= free or not self._slots):
            job = self._waiting.pop(0)
            job.admitted = now
            job.stepped = self._turn
            free -= self._load(job)
            self._slots.append(job)
        for place, job in enumerate(self._waiting, start=1):
            if job.watch is not None and job.place != place:
                job.place = place
                job.tell(place)

    def _load(self, job: Job) -> float:
        """The job's rows, each counted as many times as it is larger than the reference."""
        if self._reference_pixels is None:
            return job.rows
        pixels = job.request.width * job.request.height
        return job.rows * max(1.0, pixels / self._reference_pixels)

    def _schedule(self) -> list[Job]:
        """The jobs of one group: the one whose turn is longest ago (newcomers line up last)."""
        if not self._slots:
            return []
        self._turn += 1
        chosen = min(self._slots, key=lambda job: job.stepped).group
        group = [job for job in self._slots if job.group == chosen]
        for job in group:
            job.stepped = self._turn
        return group

    def _denoise(self, group: list[Job]) -> None:
        inputs = self._inputs(group)
        if not group:
            return
        try:
            predictions = self._predict(group, list(group), inputs)
        except Exception as error:  # whatever the device raised, its batch is lost
            for job in list(group):
                self._lose(group, job, error)
            return
        self.steps += 1
        self.row_steps += sum(job.rows for job, _ in predictions)
        for job, prediction in predictions:
            try:
                with torch.inference_mode():
                    clean = job.path.clean(prediction) if job.preview_due else None
                    job.path.advance(prediction)
            except Exception as error:  # one request's scheduler; its neighbours go on
                self._fail_alone(group, job, f"scheduler step failed: {_named(error)}")
                continue
            job.tell()
            if clean is not None:
                self._show(job, clean)

    def _predict(
        self, group: list[Job], jobs: list[Job], inputs: list[ModelInput]
    ) -> list[tuple[Job, torch.Tensor]]:
        """One forward pass; where memory is short, several. What does not fit alone fails alone."""
        try:
            rows = self.backend.facts.fixed_rows
            return list(zip(jobs, run_step(self.backend, jobs, inputs, rows), strict=True))
        except torch.OutOfMemoryError as error:
            if len(jobs) == 1:
                message = f"the picture does not fit the device's memory: {_named(error)}"
                self._fail_alone(group, jobs[0], message)
                return []
        half = len(jobs) // 2
        return [
            *self._predict(group, jobs[:half], inputs[:half]),
            *self._predict(group, jobs[half:], inputs[half:]),
        ]

    def _inputs(self, group: list[Job]) -> list[ModelInput]:
        """Each job's scaled sample and timestep; a job whose scheduler fails here leaves."""
        inputs = []
        for job in list(group):
            try:
                with torch.inference_mode():
                    inputs.append(job.path.model_input())
            except Exception as error:
                self._fail_alone(group, job, f"scheduler step failed: {_named(error)}")
        return inputs

    def _fail_alone(self, group: list[Job], job: Job, message: str) -> None:
        group.remove(job)
        self._slots.remove(job)
        job.fail("generation_failed", message)

    def _retire(self, group: list[Job]) -> None:
        for job in [job for job in group if job.path.remaining == 0]:
            job.denoised = time.monotonic()
            self._slots.remove(job)
            self._decoder.add(job)
        self._decode()

    def _lose(self, group: list[Job], job: Job, error: Exception) -> None:
        """The device failed under the job."""
        self.fault = _named(error)
        group.remove(job)
        self._slots.remove(job)
        job.fail("device_error", f"the device failed: {self.fault}", retryable=True)

    def _decode(self) -> None:
        try:
            self._decoder.tick(min((job.path.remaining for job in self._slots), default=None))
        except Exception as error:  # the decoder has failed its jobs; remember why
            self.fault = _named(error)

    def _left(self, job: Job) -> bool:
        """Whether the job is cancelled or past its deadline; answers it if so."""
        if job.cancelled:
            job.fail("generation_failed", "cancelled")
        elif job.expired(time.monotonic()):
            job.fail(
                "deadline_exceeded",
                "the deadline passed before the picture was finished",
                param="deadline_ms",
            )
        else:
            return False
        return True


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
