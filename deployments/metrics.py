"""One metric's description, and the metrics of a replica (Prometheus names begin ``ray_``)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

log = logging.getLogger(__name__)

# From a hundredth of a second to some ten minutes, each twice the one before; with 0.1 and 12.8.
SECONDS = tuple(0.0125 * 2**power for power in range(17))
POOL = ("pool", "accelerator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What a metric is called and what it says; its one home, for code and for the documentation.

    Attributes:
        name: as given to Ray.
        kind: of Prometheus.
        about: one sentence, with the unit.
        labels: those we set; Ray adds ``deployment``, ``replica``, ``application`` and its own.
        boundaries: of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name in Prometheus; a histogram's series end in ``_bucket``, ``_sum``, ``_count``."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"

    def make(self) -> Any:
        """The metric itself, in this process; in a Serve replica it gets the replica's labels."""
        from ray.serve import metrics

        if self.kind == "histogram":
            return metrics.Histogram(self.name, self.about, list(self.boundaries), self.labels)
        made = metrics.Counter if self.kind == "counter" else metrics.Gauge
        return made(self.name, self.about, self.labels)


STEPS = Metric(
    name="imagine_engine_steps",
    kind="counter",
    about="denoising steps of the batch that were run",
    labels=POOL,
)
ROW_STEPS = Metric(
    name="imagine_engine_row_steps",
    kind="counter",
    about="rows of all those steps; over imagine_engine_steps, the mean batch",
    labels=POOL,
)
SLOTS = Metric(
    name="imagine_engine_slots", kind="gauge", about="rows that the batch can hold", labels=POOL
)
SLOTS_USED = Metric(
    name="imagine_engine_slots_used", kind="gauge", about="rows that are in use", labels=POOL
)
WAITING = Metric(
    name="imagine_engine_waiting",
    kind="gauge",
    about="prepared pictures that wait for a slot in the replica",
    labels=POOL,
)
STARTUP = Metric(
    name="imagine_startup_seconds",
    kind="gauge",
    about="seconds that a phase of the replica's start took",
    labels=(*POOL, "phase"),
)
REPLICA_METRICS = (STEPS, ROW_STEPS, SLOTS, SLOTS_USED, WAITING, STARTUP)


class EngineView(Protocol):
    """The numbers of an engine that are exported."""

    max_rows: int
    steps: int
    row_steps: int

    @property
    def rows(self) -> int:
        """Rows in use."""

    @property
    def waiting(self) -> int:
        """Prepared jobs without a slot."""


class ReplicaMetrics:
    """Exports an engine's numbers and what the replica's start took.

    Args:
        pool, accelerator: labels.
        engine: whose numbers.
        phases: phase of the start -> seconds.
    """

    def __init__(
        self, pool: str, accelerator: str, engine: EngineView, phases: Mapping[str, float]
    ) -> None:
        self._tags = {"pool": pool, "accelerator": accelerator}
        self._engine = engine
        self._phases = phases
        self._made = {metric.name: metric.make() for metric in REPLICA_METRICS}
        self._steps = self._row_steps = 0

    def export(self) -> None:
        """Show the numbers as they are now."""
        engine, tags, made = self._engine, self._tags, self._made
        steps, row_steps = engine.steps, engine.row_steps
        for metric, more in (
            (STEPS, steps - self._steps),
            (ROW_STEPS, row_steps - self._row_steps),
        ):
            if more:
                made[metric.name].inc(more, tags=tags)
        self._steps, self._row_steps = steps, row_steps
        made[SLOTS.name].set(engine.max_rows, tags=tags)
        made[SLOTS_USED.name].set(engine.rows, tags=tags)
        made[WAITING.name].set(engine.waiting, tags=tags)
        for phase, seconds in self._phases.items():
            made[STARTUP.name].set(seconds, tags={**tags, "phase": phase})


class Sampler:
    """Calls something again and again in a daemon thread; the first failure of a row is logged.

    Args:
        sample: what to call.
        period_s: seconds between two calls.
    """

    def __init__(self, sample: Callable[[], None], period_s: float = 2.0) -> None:
        self._sample = sample
        self._period_s = period_s
        self._stopped = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns at once."""
        self._stopped.set()

    def once(self) -> None:
        """Call it; never raises."""
        try:
            self._sample()
        except Exception as error:
            if not self._failing:
                log.warning("cannot export metrics: %s: %s", type(error).__name__, error)
            self._failing = True
        else:
            self._failing = False

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.once()
            self._stopped.wait(self._period_s)
