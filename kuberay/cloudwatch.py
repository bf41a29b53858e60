"""The CloudWatch dashboard: accelerators, load balancer and pods side by side.

Names: Container Insights with enhanced observability, as the CloudWatch agent's source has them.
``CLUSTER`` and ``REGION`` are put in by the command in ``docs/eks.md``.
"""

from __future__ import annotations

from typing import Any

CLUSTER, REGION = "CLUSTER_NAME", "AWS_REGION"
_WIDTH, _HEIGHT = 8, 6
_PER_ROW = 24 // _WIDTH
_INSIGHTS = "ContainerInsights"

# Title, statistic, [(metric, label)] of the cluster.
_CLUSTER_WIDGETS: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("GPU utilisation, %", "Average", [("node_gpu_utilization", "GPUs")]),
    ("GPU memory, %", "Average", [("node_gpu_memory_utilization", "GPUs")]),
    ("NeuronCore utilisation, %", "Average", [("node_neuroncore_utilization", "NeuronCores")]),
    (
        "GPUs taken and there",
        "Average",
        [("node_gpu_usage_total", "taken"), ("node_gpu_limit", "there")],
    ),
    (
        "NeuronCores taken and there",
        "Average",
        [("node_neuroncore_usage_total", "taken"), ("node_neuroncore_limit", "there")],
    ),
    (
        "Neuron execution errors and memory errors",
        "Sum",
        [
            ("node_neuron_execution_errors_total", "execution"),
            ("node_neurondevice_hw_ecc_events_total", "memory (ECC)"),
        ],
    ),
    ("Nodes", "Average", [("cluster_node_count", "all"), ("cluster_failed_node_count", "failed")]),
]
# Title, statistics, metric of the load balancer, which the Ingress names.
_BALANCER_WIDGETS = [
    ("Seconds to the answer (load balancer)", ["p50", "p95", "p99"], "TargetResponseTime"),
    ("Answers per minute", ["Sum"], "HTTPCode_Target_2XX_Count"),
    ("Errors of the service per minute", ["Sum"], "HTTPCode_Target_5XX_Count"),
    ("Errors of the load balancer per minute", ["Sum"], "HTTPCode_ELB_5XX_Count"),
    ("Healthy targets", ["Minimum"], "HealthyHostCount"),
]


def dashboard() -> dict[str, Any]:
    """The body for ``aws cloudwatch put-dashboard``."""
    balancers = [_balancer(*widget) for widget in _BALANCER_WIDGETS]
    clusters = [_cluster(*widget) for widget in _CLUSTER_WIDGETS]
    return {
        "start": "-PT6H",
        "widgets": [_placed(n, one) for n, one in enumerate([*balancers, *clusters])],
    }


def _placed(index: int, properties: dict[str, Any]) -> dict[str, Any]:
    row, column = divmod(index, _PER_ROW)
    return {
        "type": "metric",
        "x": column * _WIDTH,
        "y": row * _HEIGHT,
        "width": _WIDTH,
        "height": _HEIGHT,
        "properties": {"region": REGION, "view": "timeSeries", "period": 60, **properties},
    }


def _cluster(title: str, statistic: str, metrics: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "title": title,
        "stat": statistic,
        "metrics": [
            [_INSIGHTS, name, "ClusterName", CLUSTER, {"label": label}] for name, label in metrics
        ],
    }


def _balancer(title: str, statistics: list[str], metric: str) -> dict[str, Any]:
    # A metric's load balancer is ``app/NAME/ID``; the search takes a part.
    group = "LoadBalancer,TargetGroup" if metric == "HealthyHostCount" else "LoadBalancer"
    search = f'{{AWS/ApplicationELB,{group}}} MetricName="{metric}" imagine'
    return {
        "title": title,
        "metrics": [
            [{"expression": f"SEARCH('{search}', '{statistic}', 60)", "label": statistic}]
            for statistic in statistics
        ],
    }
