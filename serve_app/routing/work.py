"""How much a request asks of a pool: the unit of queues and predictions."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.messages import ImageRequest


@dataclass(frozen=True, slots=True)
class Work:
    """One picture's work.

    Attributes:
        rows: rows of the batch (two when guided), as many times more as the picture is larger
            than the model's own size.
        steps: denoising steps it takes.
        size: width and height in pixels; ``None``: whatever a pool paints.
        lora: the LoRA adapter asked for; ``None``: none.
    """

    rows: float
    steps: int
    size: tuple[int, int] | None = None
    lora: str | None = None

    @property
    def row_steps(self) -> float:
        """Rows times steps."""
        return self.rows * self.steps

    def allowance(self, default: Work) -> float:
        """How many times the latency objective it may take: as often as it is ``default``'s work.

        The objective is meant for the default request. One of four times the steps takes four times
        as long on an idle replica, which no fleet can mend. Never below 1.
        """
        return max(1.0, self.row_steps / default.row_steps)

    @classmethod
    def of(cls, request: ImageRequest, reference_pixels: int) -> Work:
        """The work of ``request``; ``reference_pixels`` is the model's own picture size."""
        rows = 2 if request.guidance_scale > 1 else 1
        steps = request.num_inference_steps
        if request.strength is not None:
            steps = max(1, int(steps * request.strength))
        size = (request.width, request.height)
        rows_by_pixels = rows * request.width * request.height / reference_pixels
        return cls(rows_by_pixels, steps, size, request.lora)


@dataclass(slots=True)
class Load:
    """Work sent to a pool and not yet answered.

    Attributes:
        requests: how many pictures.
        rows: their rows together.
        row_steps: their row-steps together; steps already taken are not known and count too.
    """

    requests: int = 0
    rows: float = 0.0
    row_steps: float = 0.0

    def add(self, work: Work) -> None:
        """Count a request in."""
        self.requests += 1
        self.rows += work.rows
        self.row_steps += work.row_steps

    def remove(self, work: Work) -> None:
        """Count a request out; an empty load is exactly zero, whatever was rounded."""
        self.requests -= 1
        if self.requests == 0:
            self.rows = self.row_steps = 0.0
        else:
            self.rows -= work.rows
            self.row_steps -= work.row_steps

    def times(self, factor: float) -> Load:
        """The same load, so many times."""
        return Load(round(self.requests * factor), self.rows * factor, self.row_steps * factor)
