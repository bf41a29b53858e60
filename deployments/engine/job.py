"""A request inside the engine, from arrival to its one answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from deployments.backends.base import TextEmbedding
from deployments.engine.trajectory import Trajectory
from deployments.messages import (
    FailureCode,
    ImageEvent,
    ImageFailure,
    ImageProgress,
    ImageRequest,
    ImageResult,
)

Answer = ImageResult | ImageFailure


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The text side of a guided (two rows) or unguided (one row) request.

    Attributes:
        adapter: ``[1]`` int64, the LoRA adapter's index (0: none), where there is a choice.
    """

    positive: TextEmbedding
    negative: TextEmbedding | None
    time_ids: torch.Tensor | None
    timestep_cond: torch.Tensor | None
    adapter: torch.Tensor | None = None

    @property
    def truncated(self) -> bool:
        """Whether a text was longer than its encoder's window."""
        return self.positive.truncated or (self.negative is not None and self.negative.truncated)

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """All that is on the device."""
        texts = (self.positive, self.negative)
        return (
            *(text.hidden for text in texts if text is not None),
            *(text.pooled for text in texts if text is not None),
            self.time_ids,
            self.timestep_cond,
            self.adapter,
        )


@dataclass(slots=True, eq=False)
class Job:
    """One picture's state.

    Attributes:
        request: what to paint.
        on_answer: called exactly once, from whichever thread finishes the job.
        arrived: monotonic seconds, as are the other times.
        stepped: the engine's turn in which the job last took part.
        watch: told how the job gets on, from the engine's threads; returns at once.
        place: in the queue, as last told; 1 for the next.
        preview_steps: steps after which a preview is due.
    """

    request: ImageRequest
    on_answer: Callable[[Answer], None]
    watch: Callable[[ImageEvent], None] | None = None
    arrived: float = field(default_factory=time.monotonic)
    prepared: float = 0.0
    admitted: float = 0.0
    encode_ms: float = 0.0
    denoised: float = 0.0
    stepped: int = 0
    cancelled: bool = False
    place: int | None = None
    preview_steps: tuple[int, ...] = ()
    trajectory: Trajectory | None = None
    conditioning: Conditioning | None = None
    _answered: bool = False

    @property
    def rows(self) -> int:
        """Rows of the batch that this job takes."""
        return 2 if self.conditioning is not None and self.conditioning.negative else 1

    @property
    def path(self) -> Trajectory:
        """The trajectory of a prepared job."""
        if self.trajectory is None:
            raise RuntimeError(f"request {self.request.request_id} was not prepared")
        return self.trajectory

    @property
    def text(self) -> Conditioning:
        """The conditioning of a prepared job."""
        if self.conditioning is None:
            raise RuntimeError(f"request {self.request.request_id} was not prepared")
        return self.conditioning

    @property
    def group(self) -> tuple[tuple[int, ...], int, bool]:
        """Jobs with equal groups can share one UNet call."""
        text = self.text
        return (
            tuple(self.path.latents.shape[1:]),
            text.positive.hidden.shape[1],
            text.timestep_cond is not None,
        )

    @property
    def preview_due(self) -> bool:
        """Whether someone wants to see what the next step leads to."""
        return self.path.taken + 1 in self.preview_steps

    def tell(self, place: int | None = None) -> None:
        """Tell a watcher how far the job is, or its place in the queue."""
        if self.watch is not None:
            taken = self.path.taken
            steps = taken + self.path.remaining
            self.watch(ImageProgress(step=taken, steps=steps, place=place))

    def expired(self, now: float) -> bool:
        """Whether the caller's time has passed at ``now`` (monotonic seconds)."""
        left_s = self.request.time_left_s
        return left_s is not None and now > self.arrived + left_s

    def answer(self, answer: Answer) -> None:
        """Give the one answer; a second call is ignored (a cancelled job may still finish)."""
        if not self._answered:
            self._answered = True
            self.on_answer(answer)

    def fail(
        self, code: FailureCode, message: str, *, retryable: bool = False, param: str | None = None
    ) -> None:
        """Answer with a failure."""
        self.answer(ImageFailure(code=code, message=message, retryable=retryable, param=param))
