"""HTTP requests as Ray metrics (Prometheus names get the prefix ``ray_``)."""

from __future__ import annotations

from deployments.metrics import SECONDS, Metric
from serve_app.access.visit import CLIENT_LEFT, Visit

_NO_CODE, _LEFT_CODE = "ok", "client_left"

REQUESTS = Metric(
    name="imagine_http_requests",
    kind="counter",
    about="HTTP requests; status 499: the client left first; code: the error's word, or ok",
    labels=("route", "method", "status", "code"),
)
HTTP_SECONDS = Metric(
    name="imagine_http_seconds",
    kind="histogram",
    about="seconds from an HTTP request to the end of its answer; status is 2xx, 4xx or 5xx",
    labels=("route", "status"),
    boundaries=SECONDS,
)
HTTP_METRICS = (REQUESTS, HTTP_SECONDS)


class RayHttpMetrics:
    """Counts and times of finished requests; must be made inside a Serve replica."""

    def __init__(self) -> None:
        self._made = {metric.name: metric.make() for metric in HTTP_METRICS}

    def __call__(self, visit: Visit) -> None:
        """One request has ended."""
        code = visit.code or (_LEFT_CODE if visit.status == CLIENT_LEFT else _NO_CODE)
        self._made[REQUESTS.name].inc(
            tags={
                "route": visit.route,
                "method": visit.method,
                "status": str(visit.status),
                "code": code,
            }
        )
        tags = {"route": visit.route, "status": f"{visit.status // 100}xx"}
        self._made[HTTP_SECONDS.name].observe(visit.took_s, tags=tags)
