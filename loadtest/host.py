"""Whether this machine had time to spare: else its own slowness is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from loadtest.figures import quantile

# Beyond either, figures may be this machine's rather than the service's.
BUSY_PERCENT = 90.0
LATE_S = 0.05


@dataclass(frozen=True, slots=True)
class HostLoad:
    """How busy the machine that sent the load was.

    Attributes:
        cpu_percent: of all its cores, mean over the load.
        lag_p95_s: seconds by which requests were sent late, 95th percentile.
    """

    cpu_percent: float
    lag_p95_s: float

    @property
    def problem(self) -> str | None:
        """A sentence if figures may be this machine's own; else ``None``."""
        found = []
        if self.cpu_percent > BUSY_PERCENT:
            found.append(f"all cores were {self.cpu_percent:.0f} % busy")
        if self.lag_p95_s > LATE_S:
            found.append(f"requests left up to {self.lag_p95_s * 1000:.0f} ms late")
        if not found:
            return None
        return f"the machine that sends was saturated: {' and '.join(found)}"


class HostWatch:
    """Measures from when it is made."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # the next call counts from here

    def look(self, lags_s: Sequence[float]) -> HostLoad:
        """The load since then; ``lags_s``: by how much each request was late."""
        return HostLoad(psutil.cpu_percent(), quantile(lags_s, 95) or 0.0)
