"""The engine for asyncio callers: a loop thread, a preparing thread, a picture-encoding thread."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.backends.base import Backend
from deployments.engine.decoding import DEFER_STEPS
from deployments.engine.engine import Engine
from deployments.engine.job import Answer, Job
from deployments.engine.mailbox import Mailbox
from deployments.engine.preparation import Preparation
from deployments.engine.trajectory import RefusedRequestError
from deployments.messages import (
    MEDIA_TYPES,
    ImageEvent,
    ImageFailure,
    ImagePreview,
    ImageRequest,
)
from deployments.options import Admission

logger = logging.getLogger(__name__)

Finish = Callable[[Job, NDArray[np.uint8]], Answer]
Render = Callable[[ImageRequest, torch.Tensor], bytes]
Watch = Callable[[ImageEvent], None]


class EngineService:
    """Runs an engine in threads and answers each request exactly once.

    Args:
        backend: device code.
        finish: turns a finished job and its picture into the encoded answer, or refuses it.
        render: turns predicted clean latents ``[1, channels, h, w]`` into an encoded preview;
            ``None`` for no previews.
        max_rows: rows of the batch.
        reference_pixels: size of picture for which that holds (see ``Engine``).
        max_queued: most requests waiting for a slot.
        admission: which waiting request is next.
        defer_steps: most steps a finished latent waits to be decoded with others.
        hang_after_s: a step that takes longer than this means that the device hangs.
    """

    def __init__(
        self,
        backend: Backend,
        finish: Finish,
        render: Render | None = None,
        *,
        max_rows: int,
        reference_pixels: int | None = None,
        max_queued: int,
        admission: Admission,
        defer_steps: int = DEFER_STEPS,
        hang_after_s: float = math.inf,
    ) -> None:
        self.engine = Engine(
            backend,
            self._deliver,
            self._show,
            max_rows=max_rows,
            reference_pixels=reference_pixels,
            admission=admission,
            defer_steps=defer_steps,
        )
        self._finish = finish
        self._render = render
        self._max_queued = max_queued
        self._preparation = Preparation(backend)
        self._preparing = ThreadPoolExecutor(1, "prepare")
        self._finishing = ThreadPoolExecutor(1, "finish")
        self._wake = threading.Condition()
        self._stopping = False
        self._hang_after_s = hang_after_s
        self._stepping_since: float | None = None
        self._jobs: set[Job] = set()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def open(self) -> int:
        """Requests accepted and not yet answered."""
        return len(self._jobs)

    async def generate(self, request: ImageRequest, watch: Watch | None = None) -> Answer:
        """Paint one picture; cancelling the awaiting task frees its slot at the next step.

        Args:
            request: what to paint.
            watch: told how it gets on, from other threads; must return at once.
        """
        if self._stopping or self.engine.fault is not None:
            message = self.engine.fault or "the replica is shutting down"
            return ImageFailure(code="device_error", message=message, retryable=True)
        if (refusal := self._wrong_size(request)) is not None:
            return refusal
        if self.open >= self._max_queued + self.engine.max_rows:
            message = f"{self.open} requests are waiting here already"
            return ImageFailure(code="overloaded", message=message, retryable=True)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def on_answer(answer: Answer) -> None:
            try:
                loop.call_soon_threadsafe(_resolve, future, answer)
            except RuntimeError:  # the caller's loop has closed: nobody waits for this answer
                logger.debug("request %s: its caller is gone", request.request_id)

        job = Job(request, on_answer, watch)
        self._jobs.add(job)
        try:
            self._preparing.submit(self._prepare, job)
            return await future
        finally:
            self._jobs.discard(job)
            job.cancelled = True  # no effect on an answered job
            self._notify()

    def _wrong_size(self, request: ImageRequest) -> ImageFailure | None:
        sizes, size = self.engine.backend.facts.sizes, (request.width, request.height)
        if sizes is None or size in sizes:
            return None
        allowed = ", ".join(f"{width} x {height}" for width, height in sizes)
        return ImageFailure(
            code="invalid_request",
            message=f"width, height: got {size[0]} x {size[1]}; this pool was compiled for"
            f" {allowed}",
            param="height" if size[0] in {width for width, _ in sizes} else "width",
            retryable=True,  # on another pool
        )

    async def stream(self, request: ImageRequest) -> AsyncGenerator[ImageEvent | Answer, None]:
        """As ``generate``, with what happens on the way; the answer is the last item.

        Closing the iterator frees the slot at the next step.
        """
        box = Mailbox()
        answer = asyncio.ensure_future(self.generate(request, box.put))
        try:
            async for event in box.until(answer):
                yield event
            yield answer.result()
        finally:
            answer.cancel()

    def check(self) -> None:
        """Raise if the device failed or hangs or the loop died.

        Raises:
            RuntimeError: the replica should be replaced.
        """
        if self.engine.fault is not None:
            raise RuntimeError(f"device fault: {self.engine.fault}")
        for what, since in (
            ("step", self._stepping_since),
            ("decoding", self.engine.decoding_since),
        ):
            if since is not None and time.monotonic() - since > self._hang_after_s:
                raise RuntimeError(
                    f"the device hangs: one {what} takes over {self._hang_after_s:g} s"
                )
        if not self._thread.is_alive():
            raise RuntimeError("the engine loop has ended")

    def stop(self) -> None:
        """Fail what is left and end the threads."""
        self._stopping = True
        self._notify()
        self._thread.join(timeout=30)
        self.engine.close()
        self._preparing.shutdown(cancel_futures=True)
        self._finishing.shutdown()
        # What was being prepared, or never was, has no thread left to answer it.
        for job in list(self._jobs):
            job.fail("device_error", "the replica is shutting down", retryable=True)

    def _prepare(self, job: Job) -> None:
        if job.cancelled:
            return
        try:
            self._preparation.prepare(job)
        except RefusedRequestError as error:
            job.fail("invalid_request", str(error))
        except Exception as error:
            logger.exception("preparing request %s failed", job.request.request_id)
            if (fault := self._preparation.fault()) is not None:
                self.engine.fault = fault
                job.fail("device_error", f"the device failed: {fault}", retryable=True)
            else:
                job.fail("generation_failed", f"preparing failed: {type(error).__name__}: {error}")
        else:
            self.engine.submit(job)
            self._notify()

    def _deliver(self, job: Job, picture: NDArray[np.uint8]) -> None:
        self._finishing.submit(self._encode, job, picture)

    def _encode(self, job: Job, picture: NDArray[np.uint8]) -> None:
        try:
            job.answer(self._finish(job, picture))
        except Exception as error:
            logger.exception("encoding the picture of %s failed", job.request.request_id)
            job.fail("generation_failed", f"encoding failed: {type(error).__name__}: {error}")

    def _show(self, job: Job, clean: torch.Tensor) -> None:
        if self._render is not None:
            self._finishing.submit(self._preview, job, clean, self._render, job.path.taken)

    def _preview(self, job: Job, clean: torch.Tensor, render: Render, step: int) -> None:
        if job.cancelled or job.watch is None:
            return
        request = job.request
        try:
            image = render(request, clean)
        except Exception:  # the picture itself can do without
            logger.exception("rendering a preview of %s failed", request.request_id)
            return
        job.watch(
            ImagePreview(
                index=job.preview_steps.index(step),
                step=step,
                steps=len(job.path.timesteps),
                image=image,
                media_type=MEDIA_TYPES[request.output_format],
            )
        )

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        while not self._stopping:
            with self._wake:
                self._wake.wait_for(lambda: self.engine.busy or self._stopping)
            try:
                while self.engine.busy and not self._stopping:
                    self._stepping_since = time.monotonic()
                    self.engine.step()
                    self._stepping_since = None
                    if self.engine.fault is not None:
                        self.engine.fail_all(f"the device failed: {self.engine.fault}")
            except Exception as error:  # a bug of ours must not leave callers without an answer
                logger.exception("the engine loop failed")
                self.engine.fault = f"{type(error).__name__}: {error}"
                self.engine.fail_all(f"the engine loop failed: {self.engine.fault}")
        self.engine.fail_all("the replica is shutting down")


def _resolve(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
