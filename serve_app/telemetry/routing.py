"""Every routing decision and picture as Ray metrics (Prometheus names get the prefix ``ray_``)."""

from __future__ import annotations

from deployments.messages import ImageResult
from deployments.metrics import POOL, SECONDS, Metric
from serve_app.routing.router import Decision

_RATIOS = (0.1, 0.2, 0.5, 0.7, 0.9, 1.1, 1.4, 2.0, 5.0, 10.0)
PHASES = ("queue", "encode", "denoise", "decode")

DECISIONS = Metric(
    name="imagine_routing_decisions",
    kind="counter",
    about="requests sent, by pool and reason",
    labels=(*POOL, "reason"),
)
FAILURES = Metric(
    name="imagine_routing_failures",
    kind="counter",
    about="requests lost or failed, by pool",
    labels=("pool", "cause"),
)
RETRIES = Metric(
    name="imagine_routing_retries",
    kind="counter",
    about="requests sent a second time, by their new pool",
    labels=("pool",),
)
REFUSALS = Metric(
    name="imagine_routing_refusals",
    kind="counter",
    about="requests refused before any pool saw them",
    labels=("code",),
)
IMAGES = Metric(
    name="imagine_images", kind="counter", about="pictures painted for users", labels=POOL
)
PREDICTED = Metric(
    name="imagine_predicted_seconds",
    kind="histogram",
    about="predicted seconds to the picture",
    labels=POOL,
    boundaries=SECONDS,
)
TOOK = Metric(
    name="imagine_took_seconds",
    kind="histogram",
    about="actual seconds to the picture, from the ingress to the pool and back",
    labels=POOL,
    boundaries=SECONDS,
)
RATIO = Metric(
    name="imagine_prediction_ratio",
    kind="histogram",
    about="actual over predicted time",
    labels=POOL,
    boundaries=_RATIOS,
)
PHASE = Metric(
    name="imagine_phase_seconds",
    kind="histogram",
    about="seconds of a picture in the replica, by phase: queue, encode, denoise, decode",
    labels=(*POOL, "phase"),
    boundaries=SECONDS,
)
ROUTING_METRICS = (
    DECISIONS, FAILURES, RETRIES, REFUSALS, IMAGES, PREDICTED, TOOK, RATIO, PHASE
)  # fmt: skip


class RayRoutingMetrics:
    """See ``RoutingMetrics``; must be made inside a Serve replica."""

    def __init__(self) -> None:
        self._made = {metric.name: metric.make() for metric in ROUTING_METRICS}

    def decided(self, decision: Decision) -> None:
        """See ``RoutingMetrics``."""
        self._made[DECISIONS.name].inc(tags={**_tags(decision), "reason": decision.reason})
        if decision.reason == "retry":
            self._made[RETRIES.name].inc(tags={"pool": decision.pool.name})

    def finished(self, decision: Decision, took_s: float, result: ImageResult) -> None:
        """See ``RoutingMetrics``."""
        made, tags, predicted_s = self._made, _tags(decision), decision.predicted_s
        made[IMAGES.name].inc(tags=tags)
        made[TOOK.name].observe(took_s, tags=tags)
        if predicted_s > 0:
            made[PREDICTED.name].observe(predicted_s, tags=tags)
            made[RATIO.name].observe(took_s / predicted_s, tags=tags)
        for phase in PHASES:
            seconds = getattr(result.timings, phase) / 1000
            made[PHASE.name].observe(seconds, tags={**tags, "phase": phase})

    def failed(self, pool: str, cause: str) -> None:
        """See ``RoutingMetrics``."""
        self._made[FAILURES.name].inc(tags={"pool": pool, "cause": cause})

    def refused(self, code: str) -> None:
        """See ``RoutingMetrics``."""
        self._made[REFUSALS.name].inc(tags={"code": code})


def _tags(decision: Decision) -> dict[str, str]:
    """The label of an emulated accelerator says that it is one."""
    return {"pool": decision.pool.name, "accelerator": decision.pool.accelerator}
