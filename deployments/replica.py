"""The Serve deployment around an engine: one process, one accelerator, one model."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from deployments.messages import (
    MEDIA_TYPES,
    ImageEvent,
    ImageFailure,
    ImageRequest,
    ImageResult,
    Timings,
)
from deployments.metrics import ReplicaMetrics, Sampler
from deployments.model_info import load_model_info
from deployments.options import ReplicaOptions
from deployments.patience import patiently
from deployments.startup import Timeline, recording, stage
from deployments.trouble import Trouble

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from deployments.engine.job import Job

logger = logging.getLogger(__name__)

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+")


class PoolReplica:
    """Loads the model, calibrates the batch, then paints until stopped.

    The constructor returns only after real passes of every part, so a ready replica is warm. While
    something is in its way that may pass (a hub out of reach, a full disk) it tries again.

    Args:
        options: what the pool's settings say.
    """

    def __init__(self, options: ReplicaOptions) -> None:
        self.options = options
        self._tried = 0
        self.timeline = patiently(lambda: self._started(options), self._tell)
        if self._tried:
            self._trouble.over(options.pool)
        timeline = self.timeline
        self._metrics = Sampler(
            ReplicaMetrics(
                options.pool,
                options.accelerator,
                self.service.engine,
                timeline.phases,
            ).export
        )
        self._metrics.start()
        logger.info(
            "pool %s ready in %.1f s (%s): %s on %s, %s, %d rows",
            options.pool,
            timeline.total,
            timeline,
            self.info.name,
            self.service.engine.backend.facts.accelerator
            or self.service.engine.backend.facts.device,
            self.graphs,
            self.service.engine.max_rows,
        )

    def _started(self, options: ReplicaOptions) -> Timeline:
        with recording() as timeline:
            self._start(options)
        return timeline

    def _tell(self, why: str) -> None:
        self._tried += 1
        self._trouble.tell(self.options.pool, why, self._tried)

    @property
    def _trouble(self) -> Trouble:
        from ray import serve

        return Trouble(serve.get_replica_context().app_name)

    def _start(self, options: ReplicaOptions) -> None:
        # The module is imported by processes that must stay free of torch; only a replica loads it.
        with stage("import"):
            from deployments.backends import create_backend
            from deployments.engine.calibration import choose_rows, measure_step_costs
            from deployments.engine.previews import LinearDecoder
            from deployments.engine.service import EngineService
            from deployments.engine.statistics import Statistics
            from deployments.graphs import choose_graphs
            from deployments.safety import load_checker

        with stage("download"):
            self.info = load_model_info(options.model_source, options.model_revision)
            graphs = choose_graphs(options, self.info)
        if graphs is not None:
            # A batch beyond the largest graph is several calls: nothing gained, and all wait.
            most = min(options.max_rows, max(graphs.batches))
            told = {"max_rows": most, "dtype": options.dtype or graphs.dtype}
            options = options.model_copy(update=told)
        backend = create_backend(options, graphs)
        self.graphs = "the backend's own" if graphs is None else graphs.description
        defaults = self.info.defaults
        self.width, self.height = (backend.facts.sizes or ((defaults.width, defaults.height),))[0]
        with stage("warm_up"):
            self.step_costs = measure_step_costs(backend, self.height, self.width, options.max_rows)
            self.decoder = LinearDecoder.fit(backend, self.height, self.width)
        with stage("load"):
            self._checker = load_checker(options.safety_source, options.safety_revision)
        self.service = EngineService(
            backend,
            self._finish,
            # A preview would show what the checker has not seen.
            self._render if self._checker is None else None,
            max_rows=choose_rows(self.step_costs),
            reference_pixels=self.width * self.height,
            max_queued=options.max_queued,
            admission=options.admission,
            hang_after_s=max(options.hang_after_s, max(self.step_costs.values()) / 100),
        )
        self.statistics = Statistics(defaults.width * defaults.height)
        with stage("warm_up"):
            self._warm_up()

    async def generate(self, request: ImageRequest) -> ImageResult | ImageFailure:
        """Paint one picture; the answer is a value either way."""
        self.statistics.arrived(request, time.monotonic())
        answer = await self.service.generate(request)
        if isinstance(answer, ImageResult):
            self.statistics.done(request, answer.timings, time.monotonic())
        return answer

    async def stream(
        self, request: ImageRequest
    ) -> AsyncIterator[ImageEvent | ImageResult | ImageFailure]:
        """As ``generate``, with progress and previews on the way; the answer is the last item."""
        self.statistics.arrived(request, time.monotonic())
        async with aclosing(self.service.stream(request)) as events:
            async for event in events:
                if isinstance(event, ImageResult):
                    self.statistics.done(request, event.timings, time.monotonic())
                yield event

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
        """What this replica was measured to do and what it is doing.

        Step costs and most rows are told in rows of the model's own size, as the ingress counts.
        """
        engine = self.service.engine
        defaults, facts = self.info.defaults, engine.backend.facts
        larger = self.width * self.height / (defaults.width * defaults.height)
        return {
            "step_cost_ms": {
                max(1, round(rows * larger)): cost for rows, cost in self.step_costs.items()
            },
            "max_rows": max(1, round(engine.max_rows * larger)),
            "sizes": None if facts.sizes is None else [list(size) for size in facts.sizes],
            "rows": engine.rows,
            "waiting": engine.waiting,
            "open": self.service.open,
            "device": facts.accelerator or facts.device,
            "dtype": str(facts.dtype).removeprefix("torch."),
            "graphs": self.graphs,
            "startup_s": dict(self.timeline.seconds),
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
        request = ImageRequest(
            request_id="warm-up",
            prompt="warm-up",
            negative_prompt="",
            width=self.width,
            height=self.height,
            num_inference_steps=2,
            guidance_scale=self.info.defaults.guidance_scale,
            seed=0,
            lora=self.service.engine.backend.facts.fused_lora,
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

    def _render(self, request: ImageRequest, clean: torch.Tensor) -> bytes:
        from deployments.picture import encode_preview

        return encode_preview(self.decoder.decode(clean), request)

    def _unknown_words(self, prompt: str) -> tuple[str, ...]:
        if self.info.vocabulary is None:
            return ()
        words = dict.fromkeys(WORD.findall(prompt.lower()))
        return tuple(word for word in words if word not in self.info.vocabulary)
