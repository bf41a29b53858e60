"""Every routing decision as Ray metrics (Prometheus names get the prefix ``ray_``)."""

from __future__ import annotations

from ray.serve import metrics

from serve_app.routing.router import Decision

# From a tenth of a second to some ten minutes, each twice the one before.
_SECONDS = [0.1 * 2**power for power in range(14)]
_RATIOS = [0.1, 0.2, 0.5, 0.7, 0.9, 1.1, 1.4, 2.0, 5.0, 10.0]

_POOL = ("pool", "accelerator")


class RayRoutingMetrics:
    """See ``RoutingMetrics``; must be made inside a Serve replica."""

    def __init__(self) -> None:
        self._decisions = metrics.Counter(
            "imagine_routing_decisions",
            "requests sent, by pool and reason",
            (*_POOL, "reason"),
        )
        self._failures = metrics.Counter(
            "imagine_routing_failures", "requests lost or failed, by pool", ("pool", "cause")
        )
        self._retries = metrics.Counter(
            "imagine_routing_retries", "requests sent a second time, by their new pool", ("pool",)
        )
        self._refusals = metrics.Counter(
            "imagine_routing_refusals", "requests refused before any pool saw them", ("code",)
        )
        self._predicted = metrics.Histogram(
            "imagine_predicted_seconds",
            "predicted seconds to the picture",
            _SECONDS,
            _POOL,
        )
        self._took = metrics.Histogram(
            "imagine_took_seconds",
            "actual seconds to the picture",
            _SECONDS,
            _POOL,
        )
        self._ratio = metrics.Histogram(
            "imagine_prediction_ratio",
            "actual over predicted time",
            _RATIOS,
            _POOL,
        )

    def decided(self, decision: Decision) -> None:
        """See ``RoutingMetrics``."""
        self._decisions.inc(tags={**_tags(decision), "reason": decision.reason})
        if decision.reason == "retry":
            self._retries.inc(tags={"pool": decision.pool.name})

    def finished(self, decision: Decision, took_s: float) -> None:
        """See ``RoutingMetrics``."""
        tags, predicted_s = _tags(decision), decision.predicted_s
        self._took.observe(took_s, tags=tags)
        if predicted_s > 0:
            self._predicted.observe(predicted_s, tags=tags)
            self._ratio.observe(took_s / predicted_s, tags=tags)

    def failed(self, pool: str, cause: str) -> None:
        """See ``RoutingMetrics``."""
        self._failures.inc(tags={"pool": pool, "cause": cause})

    def refused(self, code: str) -> None:
        """See ``RoutingMetrics``."""
        self._refusals.inc(tags={"code": code})


def _tags(decision: Decision) -> dict[str, str]:
    """The label of an emulated accelerator says that it is one."""
    return {"pool": decision.pool.name, "accelerator": decision.pool.accelerator}
