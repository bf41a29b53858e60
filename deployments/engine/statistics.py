"""What one replica did of late, as numbers for the autoscaling policy."""

from __future__ import annotations

import math
import threading
from collections import deque

from deployments.messages import ImageRequest, Timings

WINDOW_S = 30.0
_MOST = 4096


class Statistics:
    """Counts of the last ``WINDOW_S``; written by several threads. ``now`` is monotonic seconds.

    Args:
        reference_pixels: the picture size of which a row counts as one.
    """

    def __init__(self, reference_pixels: int) -> None:
        self._reference_pixels = reference_pixels
        self._lock = threading.Lock()
        self._arrived: deque[tuple[float, float]] = deque(maxlen=_MOST)
        self._done: deque[tuple[float, float, Timings]] = deque(maxlen=_MOST)

    def arrived(self, request: ImageRequest, now: float) -> None:
        """A request came to this replica."""
        with self._lock:
            self._arrived.append((now, self.row_steps(request)))

    def done(self, request: ImageRequest, timings: Timings, now: float) -> None:
        """A picture is finished."""
        with self._lock:
            self._done.append((now, self.row_steps(request), timings))

    def row_steps(self, request: ImageRequest) -> float:
        """Rows times steps of a request, rows counted by pixels."""
        rows = 2 if request.guidance_scale > 1 else 1
        steps = request.num_inference_steps
        if request.strength is not None:
            steps = max(1, int(steps * request.strength))
        return rows * steps * request.width * request.height / self._reference_pixels

    def numbers(self, now: float) -> dict[str, float]:
        """Row-steps a second that arrived and were done; queue wait, p50 and p95 in seconds."""
        with self._lock:
            for entries in (self._arrived, self._done):
                while entries and entries[0][0] < now - WINDOW_S:
                    entries.popleft()
            arrived = sum(entry[1] for entry in self._arrived)
            done = list(self._done)
        found = {
            "work_arrived_per_s": arrived / WINDOW_S,
            "work_done_per_s": sum(entry[1] for entry in done) / WINDOW_S,
        }
        if done:
            took = sorted(timings.total / 1000 for _, _, timings in done)
            found["queue_wait_s"] = sum(t.queue for _, _, t in done) / 1000 / len(done)
            found["p50_s"] = took[math.ceil(0.5 * len(took)) - 1]
            found["p95_s"] = took[math.ceil(0.95 * len(took)) - 1]
        return found
