"""What the autoscaling policy decided, as Ray metrics (Prometheus names get the prefix ``ray_``).

The policy runs in Serve's controller; the ingress, which shows its decisions, also exports them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from deployments.metrics import Metric

TARGET = Metric(
    name="imagine_autoscaling_target",
    kind="gauge",
    about="replicas the policy wants",
    labels=("pool",),
)
SHORT = Metric(
    name="imagine_autoscaling_short",
    kind="gauge",
    about="1 while a pool's hardware is not to be had",
    labels=("pool",),
)
REQUIRED = Metric(
    name="imagine_autoscaling_required_row_steps_per_s",
    kind="gauge",
    about="work the fleet is sized for, in row-steps a second",
)
FAULTS = Metric(
    name="imagine_autoscaling_faults",
    kind="gauge",
    about="times that deciding has failed; counts stayed as they were",
)
AGE = Metric(
    name="imagine_autoscaling_age_seconds",
    kind="gauge",
    about="seconds since the policy last decided, as far as the ingress knows",
)
AUTOSCALING_METRICS = (TARGET, SHORT, REQUIRED, FAULTS, AGE)


class RayAutoscalingMetrics:
    """Gauges of the newest decision; must be made inside a Serve replica.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The time of the newest decision, which another node's clock tells, and when it was new.
        self._newest: tuple[float, float] | None = None
        self._made = {metric.name: metric.make() for metric in AUTOSCALING_METRICS}

    def decided(self, decision: Mapping[str, Any]) -> None:
        """Show ``decision``, as the board has it."""
        made = self._made
        now = self._clock()
        if self._newest is None or self._newest[0] != decision["at"]:
            self._newest = (decision["at"], now)
        made[AGE.name].set(now - self._newest[1])
        made[FAULTS.name].set(decision["faults"])
        if "required_row_steps_per_s" in decision:
            made[REQUIRED.name].set(decision["required_row_steps_per_s"])
        for name, pool in decision["pools"].items():
            tags = {"pool": name}
            made[TARGET.name].set(pool["target"], tags=tags)
            if "supply" in pool:
                made[SHORT.name].set(float(pool["supply"]["state"] != "open"), tags=tags)
