"""Which waiting request gets the next slot: small pure keys, smallest first."""

from __future__ import annotations

from collections.abc import Callable

from deployments.engine.job import Job
from deployments.options import Admission

Key = Callable[[Job, float], float]

# A request without a deadline waits as if it had this one, so that it cannot starve.
PATIENCE_S = 60.0
# One second of waiting makes up for this many row-steps of length: long requests cannot starve.
AGEING_ROW_STEPS_PER_S = 20.0


def earliest_deadline(job: Job, now: float) -> float:
    """Seconds from ``now`` (monotonic) to the deadline; without one, to the end of patience."""
    left_s = job.request.time_left_s
    return job.arrived + (PATIENCE_S if left_s is None else left_s) - now


def shortest_work(job: Job, now: float) -> float:
    """Remaining row-steps less an allowance for the time waited."""
    return job.rows * job.path.remaining - AGEING_ROW_STEPS_PER_S * (now - job.arrived)


POLICIES: dict[Admission, Key] = {"deadline": earliest_deadline, "shortest": shortest_work}
