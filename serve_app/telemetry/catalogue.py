"""Every metric of the service, for the documentation and for checks of dashboards."""

from __future__ import annotations

from deployments.metrics import REPLICA_METRICS, Metric
from serve_app.telemetry.autoscaling import AUTOSCALING_METRICS
from serve_app.telemetry.http import HTTP_METRICS
from serve_app.telemetry.pools import POOL_METRICS
from serve_app.telemetry.publishing import CLOUDWATCH_METRICS
from serve_app.telemetry.routing import ROUTING_METRICS

CATALOGUE: tuple[Metric, ...] = (
    *HTTP_METRICS,
    *ROUTING_METRICS,
    *POOL_METRICS,
    *REPLICA_METRICS,
    *AUTOSCALING_METRICS,
    *CLOUDWATCH_METRICS,
)


def table() -> str:
    """The catalogue as a table in Markdown."""
    rows = [
        f"| `{metric.exported}` | {metric.kind} | {', '.join(metric.labels)} | {metric.about} |"
        for metric in CATALOGUE
    ]
    return "\n".join(["| name | kind | labels | says |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
