"""Counts and latencies of users' pictures for CloudWatch, off the request path.

``record`` only appends to a bounded queue. A thread turns what is there into the smallest number
of data (each distinct latency once, with its count, so that CloudWatch's percentiles are exact)
and hands them to the API or writes them in the embedded metric format.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serve_app.routing.router import Decision

log = logging.getLogger(__name__)

# CloudWatch's own limits: distinct values of a datum, and data of a call.
MOST_VALUES = 150
MOST_DATA = 1000
IMAGES, LATENCY = "Images", "Latency"
_CLOSING_S = 5.0


@dataclass(frozen=True, slots=True)
class Series:
    """What CloudWatch keeps apart.

    Attributes:
        pool, accelerator: dimensions.
        minute: unix time of the minute's start, in seconds; the resolution of the metrics.
    """

    pool: str
    accelerator: str
    minute: int


Batch = dict[Series, Counter[int]]
"""Pictures by latency in whole milliseconds."""


class Sink(Protocol):
    """Where batches go."""

    def send(self, batch: Mapping[Series, Mapping[int, int]]) -> Iterable[Series]:
        """Send all; yields each series once it has arrived.

        Raises:
            Exception: it did not get through; what was not yielded may be sent again.
        """


class Publisher:
    """Collects pictures and sends them every ``period_s``, at least once each.

    What the sink refuses is kept for the next time, up to ``max_waiting`` pictures; beyond them
    the oldest are dropped and counted.

    Args:
        sink: where to.
        period_s: seconds between two batches.
        max_waiting: most pictures kept.
        clock: unix time in seconds.

    Attributes:
        sent: pictures that arrived.
        failures: batches that did not get through.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        period_s: float,
        max_waiting: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._period_s = period_s
        self._max_waiting = max_waiting
        self._clock = clock
        self._queue: deque[tuple[Series, int]] = deque()
        self._waiting: Batch = {}
        self._stopping = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="cloudwatch", daemon=True)
        self.sent = self.failures = 0
        # One is the event loop's, one the thread's.
        self._turned_away = self._given_up = 0

    @property
    def dropped(self) -> int:
        """Pictures that were given up."""
        return self._turned_away + self._given_up

    def start(self) -> None:
        """Begin sending."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, and end; takes some seconds at most."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSING_S)

    def record(self, decision: Decision, took_s: float) -> None:
        """A picture came back; returns at once."""
        if len(self._queue) >= self._max_waiting:
            self._turned_away += 1
            return
        minute = int(self._clock()) // 60 * 60
        series = Series(decision.pool.name, decision.pool.accelerator, minute)
        self._queue.append((series, max(0, round(took_s * 1000))))

    def flush(self) -> None:
        """Send what is there; never raises. The first failure of a row is logged."""
        while self._queue:
            series, ms = self._queue.popleft()
            self._waiting.setdefault(series, Counter())[ms] += 1
        self._drop()
        if not self._waiting:
            return
        try:
            for series in self._sink.send(self._waiting):
                self.sent += self._waiting.pop(series).total()
        except Exception as error:
            self.failures += 1
            if not self._failing:
                log.warning("CloudWatch cannot be reached: %s: %s", type(error).__name__, error)
            self._failing = True
        else:
            self._failing = False

    def _drop(self) -> None:
        """Give up the oldest series until few enough pictures wait."""
        waiting = sum(counts.total() for counts in self._waiting.values())
        for series in sorted(self._waiting, key=lambda series: series.minute):
            if waiting <= self._max_waiting:
                return
            gone = self._waiting.pop(series).total()
            self._given_up += gone
            waiting -= gone

    def _run(self) -> None:
        while not self._stopping.wait(self._period_s):
            self.flush()
        self.flush()


class Api:
    """PutMetricData.

    Args:
        client: boto3's CloudWatch client.
        namespace: of the metrics.
        dimensions: fixed ones, besides pool and accelerator.
    """

    def __init__(self, client: Any, namespace: str, dimensions: Mapping[str, str]) -> None:
        self._client = client
        self._namespace = namespace
        self._dimensions = [{"Name": key, "Value": text} for key, text in dimensions.items()]

    def send(self, batch: Mapping[Series, Mapping[int, int]]) -> Iterator[Series]:
        """See ``Sink``."""
        data: list[dict[str, Any]] = []
        ready: list[Series] = []
        for series, counts in list(batch.items()):
            more = self._data(series, counts)
            if data and len(data) + len(more) > MOST_DATA:
                yield from self._put(data, ready)
                data, ready = [], []
            data += more
            ready.append(series)
        yield from self._put(data, ready)

    def _put(self, data: list[dict[str, Any]], ready: list[Series]) -> list[Series]:
        for begin in range(0, len(data), MOST_DATA):
            self._client.put_metric_data(
                Namespace=self._namespace, MetricData=data[begin : begin + MOST_DATA]
            )
        return ready

    def _data(self, series: Series, counts: Mapping[int, int]) -> list[dict[str, Any]]:
        common = {
            "Dimensions": [
                {"Name": "Pool", "Value": series.pool},
                {"Name": "Accelerator", "Value": series.accelerator},
                *self._dimensions,
            ],
            "Timestamp": series.minute,
        }
        data = [
            {
                **common,
                "MetricName": LATENCY,
                "Unit": "Milliseconds",
                "Values": [float(ms) for ms, _ in part],
                "Counts": [float(count) for _, count in part],
            }
            for part in _parts(counts, MOST_VALUES)
        ]
        images = float(sum(counts.values()))
        return [*data, {**common, "MetricName": IMAGES, "Unit": "Count", "Value": images}]


def api_client(region: str, endpoint_url: str | None) -> Any:
    """boto3's client; it gives up soon, as the next batch is never far.

    Raises:
        ImportError: boto3 is not installed.
    """
    import boto3
    from botocore.config import Config

    patience = Config(
        connect_timeout=3, read_timeout=10, retries={"mode": "standard", "max_attempts": 2}
    )
    return boto3.client(
        "cloudwatch", region_name=region, endpoint_url=endpoint_url, config=patience
    )


def _parts(counts: Mapping[int, int], most: int) -> Iterator[list[tuple[int, int]]]:
    items = sorted(counts.items())
    for begin in range(0, len(items), most):
        yield items[begin : begin + most]
