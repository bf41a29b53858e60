"""The families' prices as Prometheus recording rules, so that dashboards can show cost."""

from __future__ import annotations

from typing import Any

from kuberay.fleet import Fleet

METRIC = "imagine:price_dollars_per_hour"


def rule(fleet: Fleet) -> dict[str, Any]:
    """A PrometheusRule with one constant series per pool."""
    records = [
        {"record": METRIC, "expr": f"vector({family.price:g})", "labels": {"pool": name}}
        for name, family in fleet.families.items()
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "imagine-prices",
            "namespace": "imagine",
            "labels": {"release": "kube-prometheus-stack"},
        },
        "spec": {"groups": [{"name": "imagine-prices", "interval": "60s", "rules": records}]},
    }
