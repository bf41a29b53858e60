"""The Grafana dashboard: rows of panels over the recorded series of ``recording-rules.yaml``."""

from __future__ import annotations

from typing import Any

_WIDTH, _HEIGHT = 8, 8
_PER_ROW = 24 // _WIDTH

# Title, unit, [(query, legend)].
_PANELS: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("Latency, p95", "s", [("imagine:latency_seconds:p95_5m", "{{pool}}")]),
    ("Latency, median", "s", [("imagine:latency_seconds:p50_5m", "{{pool}}")]),
    (
        "Requests that break the objective",
        "percentunit",
        [("imagine:objective_broken:ratio_rate5m", "5 min"),
         ("imagine:objective_broken:ratio_rate1h", "1 h")],
    ),
    ("Images per minute", "short", [("60 * imagine:images:rate5m", "{{pool}}")]),
    (
        "Share of the traffic",
        "percentunit",
        [("imagine:images:rate5m / scalar(sum(imagine:images:rate5m))", "{{pool}}")],
    ),
    (
        "Refused, lost, retried per second",
        "short",
        [("imagine:refusals:rate5m", "refused: {{code}}"),
         ("imagine:failures:rate5m", "{{pool}}: {{cause}}"),
         ("imagine:retries:rate5m", "retried on {{pool}}")],
    ),
    ("Replicas ready", "short", [("sum by (pool) (imagine:replicas)", "{{pool}}")]),
    ("Replicas wanted", "short", [("imagine:replicas_wanted", "{{pool}}")]),
    ("Hardware not to be had", "bool_yes_no", [("imagine:pool_short", "{{pool}}")]),
    ("US dollars per hour", "currencyUSD", [("imagine:dollars_per_hour", "{{pool}}")]),
    (
        "US dollars per 1,000 images",
        "currencyUSD",
        [("imagine:dollars_per_1000_images", "{{pool}}")],
    ),
    ("Actual over predicted time", "short", [("imagine:prediction_ratio:p50_5m", "{{pool}}")]),
    ("GPU utilisation", "percent", [("imagine:gpu_utilization:percent", "{{ray_io_group}}")]),
]  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Grafana's JSON model."""
    panels = [
        {
            **_placed(index, title),
            "datasource": {"type": "prometheus", "uid": "${prometheus}"},
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + n), "expr": query, "legendFormat": legend}
                for n, (query, legend) in enumerate(queries)
            ],
        }
        for index, (title, unit, queries) in enumerate(_PANELS)
    ]
    return {
        "title": "imagine",
        "uid": "imagine",
        "schemaVersion": 39,
        "version": 1,
        "tags": ["imagine"],
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {"name": "prometheus", "type": "datasource", "query": "prometheus"},
                {"name": "cloudwatch", "type": "datasource", "query": "cloudwatch"},
                {"name": "region", "type": "textbox", "query": "us-east-1"},
                {"name": "cluster", "type": "textbox", "query": "imagine"},
            ]
        },
        "panels": [*panels, _neuron(len(panels))],
    }


def _placed(index: int, title: str) -> dict[str, Any]:
    row, column = divmod(index, _PER_ROW)
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
    }


def _neuron(index: int) -> dict[str, Any]:
    """NeuronCore utilisation; Ray does not measure it, Container Insights does."""
    return {
        **_placed(index, "NeuronCore utilisation"),
        "datasource": {"type": "cloudwatch", "uid": "${cloudwatch}"},
        "fieldConfig": {"defaults": {"unit": "percent"}, "overrides": []},
        "targets": [
            {
                "refId": "A",
                "queryMode": "Metrics",
                "region": "${region}",
                "namespace": "ContainerInsights",
                "metricName": "node_neuroncore_utilization",
                "statistic": "Average",
                "dimensions": {"ClusterName": "${cluster}"},
                "matchExact": True,
                "period": "60",
            }
        ],
    }
