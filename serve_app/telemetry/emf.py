"""CloudWatch's embedded metric format: JSON lines that an agent picks up; no call to any API."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from serve_app.telemetry.cloudwatch import IMAGES, LATENCY, Series

# The format's own limit of an array.
MOST_VALUES = 100


class Emf:
    """Writes each series as lines.

    Args:
        namespace: of the metrics.
        dimensions: fixed ones, besides pool and accelerator.
        file: to append to; ``None``: standard output.
    """

    def __init__(self, namespace: str, dimensions: Mapping[str, str], file: str | None) -> None:
        self._namespace = namespace
        self._dimensions = dict(dimensions)
        self._file = None if file is None else Path(file)

    def send(self, batch: Mapping[Series, Mapping[int, int]]) -> Iterator[Series]:
        """See ``Sink``."""
        for series, counts in list(batch.items()):
            self._write("".join(f"{json.dumps(line)}\n" for line in self.lines(series, counts)))
            yield series

    def lines(self, series: Series, counts: Mapping[int, int]) -> Iterator[dict[str, Any]]:
        """The lines of one series; every picture's latency stands in one of them."""
        values = list(chain.from_iterable(repeat(ms, n) for ms, n in sorted(counts.items())))
        dimensions = {"Pool": series.pool, "Accelerator": series.accelerator, **self._dimensions}
        for begin in range(0, len(values), MOST_VALUES):
            part = values[begin : begin + MOST_VALUES]
            yield {
                "_aws": {
                    "Timestamp": series.minute * 1000,
                    "CloudWatchMetrics": [
                        {
                            "Namespace": self._namespace,
                            "Dimensions": [list(dimensions)],
                            "Metrics": [
                                {"Name": LATENCY, "Unit": "Milliseconds"},
                                {"Name": IMAGES, "Unit": "Count"},
                            ],
                        }
                    ],
                },
                **dimensions,
                LATENCY: part,
                IMAGES: len(part),
            }

    def _write(self, text: str) -> None:
        if self._file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(text)
