"""What the autoscaling policy decided, as Ray metrics (Prometheus names get the prefix ``ray_``).

The policy runs in Serve's controller; the ingress, which shows its decisions, also exports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.serve import metrics


class RayAutoscalingMetrics:
    """Gauges of the newest decision; must be made inside a Serve replica."""

    def __init__(self) -> None:
        self._target = metrics.Gauge(
            "imagine_autoscaling_target", "replicas the policy wants", ("pool",)
        )
        self._short = metrics.Gauge(
            "imagine_autoscaling_short", "1 while a pool's hardware is not to be had", ("pool",)
        )
        self._required = metrics.Gauge(
            "imagine_autoscaling_required_row_steps_per_s", "work the fleet is sized for"
        )
        self._faults = metrics.Gauge(
            "imagine_autoscaling_faults",
            "times that deciding has failed; counts stayed as they were",
        )

    def decided(self, decision: Mapping[str, Any]) -> None:
        """Show ``decision``, as the board has it."""
        self._faults.set(decision["faults"])
        if "required_row_steps_per_s" in decision:
            self._required.set(decision["required_row_steps_per_s"])
        for name, pool in decision["pools"].items():
            tags = {"pool": name}
            self._target.set(pool["target"], tags=tags)
            if "supply" in pool:
                self._short.set(float(pool["supply"]["state"] != "open"), tags=tags)
