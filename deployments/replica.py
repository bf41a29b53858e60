"""The Serve deployment around an engine: one process, one accelerator, one model."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from deployments.messages import (
    MEDIA_TYPES,
    ImageFailure,
    ImageRequest,
    ImageResult,
    Timings,
)
from deployments.metrics import ReplicaMetrics, Sampler
from deployments.model_info import load_model_info
from deployments.options import ReplicaOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deployments.engine.job import Job

logger = logging.getLogger(__name__)

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+")


class PoolReplica:
    """Loads the model, calibrates the batch, then paints until stopped.

    The constructor returns only after real passes of every part, so a ready replica is warm.

    Args:
        options: what the pool's settings say.
    """

    def __init__(self, options: ReplicaOptions) -> None:
        # The module is imported by processes that must stay free of torch; only a replica loads it.
        from deployments.backends import create_backend
        from deployments.engine.calibration import choose_rows, measure_step_costs
        from deployments.engine.service import EngineService
        from deployments.engine.statistics import Statistics
        from deployments.safety import load_checker

        begin = time.monotonic()
        self.options = options
        self.info = load_model_info(options.model_source, options.model_revision)
        backend = create_backend(options)
        loaded = time.monotonic()
        defaults = self.info.defaults
        self.step_costs = measure_step_costs(
            backend, defaults.height, defaults.width, options.max_rows
        )
        self.service = EngineService(
            backend,
            self._finish,
            max_rows=choose_rows(self.step_costs),
            reference_pixels=defaults.width * defaults.height,
            max_queued=options.max_queued,
            admission=options.admission,
            hang_after_s=max(options.hang_after_s, max(self.step_costs.values()) / 100),
        )
        self.statistics = Statistics(defaults.width * defaults.height)
        calibrated = time.monotonic()
        self._checker = load_checker(options.safety_source, options.safety_revision)
        self._warm_up()
        ready = time.monotonic()
        self._metrics = Sampler(
            ReplicaMetrics(
                options.pool,
                options.accelerator,
                self.service.engine,
                {
                    "load": loaded - begin,
                    "calibrate": calibrated - loaded,
                    "warm_up": ready - calibrated,
                    "total": ready - begin,
                },
            ).export
        )
        self._metrics.start()
        logger.info(
            "pool %s ready: %s on %s, %d rows, load %.1f s, warm-up %.1f s",
            options.pool,
            self.info.name,
            backend.facts.device,
            self.service.engine.max_rows,
            loaded - begin,
            time.monotonic() - loaded,
        )

    async def generate(self, request: ImageRequest) -> ImageResult | ImageFailure:
        """Paint one picture; the answer is a value either way."""
        self.statistics.arrived(request, time.monotonic())
        answer = await self.service.generate(request)
        if isinstance(answer, ImageResult):
            self.statistics.done(request, answer.timings, time.monotonic())
        return answer

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve every few seconds; the autoscaling policy sees the values.

        Row-steps a second that arrived and were done, the part of the batch in use, queue wait,
        p50 and p95 in seconds over half a minute, and the measured milliseconds of a step by rows.
        """
        engine = self.service.engine
        return {
            **self.statistics.numbers(time.monotonic()),
            "occupancy": engine.rows / engine.max_rows,
            **{f"step_ms_{rows}": cost for rows, cost in self.step_costs.items()},
        }

    async def describe(self) -> dict[str, Any]:
        """What this replica was measured to do and what it is doing."""
        engine = self.service.engine
        return {
            "step_cost_ms": self.step_costs,
            "max_rows": engine.max_rows,
            "rows": engine.rows,
            "waiting": engine.waiting,
            "open": self.service.open,
            "device": engine.backend.facts.device,
            "dtype": str(engine.backend.facts.dtype).removeprefix("torch."),
        }

    def check_health(self) -> None:
        """Called by Serve; raising has the replica replaced."""
        self.service.check()

    def __del__(self) -> None:
        """Called by Serve at shutdown."""
        if hasattr(self, "_metrics"):
            self._metrics.stop()
        if hasattr(self, "service"):
            self.service.stop()

    def _warm_up(self) -> None:
        """One real picture, so that every part has run before the replica calls itself ready."""
        defaults = self.info.defaults
        request = ImageRequest(
            request_id="warm-up",
            prompt="warm-up",
            negative_prompt="",
            width=defaults.width,
            height=defaults.height,
            num_inference_steps=2,
            guidance_scale=defaults.guidance_scale,
            seed=0,
        )
        answer: list[ImageResult | ImageFailure] = []

        def run() -> None:
            answer.append(asyncio.run(self.service.generate(request)))

        # Serve constructs replicas inside a running event loop; the warm-up needs its own.
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if not answer:
            raise RuntimeError("warm-up failed: no answer")
        # What the checker flags was painted all the same.
        if isinstance(answer[0], ImageFailure) and answer[0].code != "content_policy_violation":
            raise RuntimeError(f"warm-up failed: {answer[0].message}")

    def _finish(self, job: Job, pixels: NDArray[np.uint8]) -> ImageResult | ImageFailure:
        from deployments.picture import encode_picture

        request = job.request
        if self._checker is not None and not self._checker.passes(pixels):
            return ImageFailure(
                code="content_policy_violation",
                message="the safety checker found the picture not safe to show; change the prompt"
                " or the seed",
            )
        image = encode_picture(pixels, request, self.info.name, self.info.revision)
        now = time.monotonic()
        queue = (job.admitted - job.arrived) * 1000 - job.encode_ms
        return ImageResult(
            image=image,
            media_type=MEDIA_TYPES[request.output_format],
            seed=request.seed,
            timings=Timings(
                queue=max(0.0, queue),
                encode=job.encode_ms,
                denoise=(job.denoised - job.admitted) * 1000,
                decode=(now - job.denoised) * 1000,
                total=(now - job.arrived) * 1000,
            ),
            truncated=job.text.truncated,
            unknown_words=self._unknown_words(request.prompt),
        )

    def _unknown_words(self, prompt: str) -> tuple[str, ...]:
        if self.info.vocabulary is None:
            return ()
        words = dict.fromkeys(WORD.findall(prompt.lower()))
        return tuple(word for word in words if word not in self.info.vocabulary)
