"""What one pool did of late: latencies, rate, and how far off the predictions were."""

from __future__ import annotations

import math
from collections import deque

from serve_app.routing.snapshot import Observed

WINDOW_S = 60.0
# Percentiles of fewer answers say little.
MIN_COUNT = 5
_MOST = 4096
# Percentiles are needed for every request, but sorting for every request would cost too much.
_REFRESH_S = 0.5
# Weight of the newest answer in the running correction, and how fast it is forgotten: a pool
# that gets no requests because it was slow must be tried again.
_NEWEST = 0.2
_HALF_LIFE_S = 30.0
_MOST_OFF = 1000.0


class Observations:
    """Of one pool, by one ingress replica. All times in seconds, ``now`` monotonic."""

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float]] = deque(maxlen=_MOST)
        self._log_correction = 0.0
        self._corrected_at = -math.inf
        self._cached: Observed | None = None
        self._cached_at = -math.inf

    def answered(self, took_s: float, predicted_s: float, now: float) -> None:
        """A picture came back after ``took_s``; ``predicted_s`` was predicted, uncorrected."""
        self._answers.append((now, took_s))
        self.learn(took_s, predicted_s, now)

    def overdue(self, after_s: float, predicted_s: float, now: float) -> None:
        """A request was given up after ``after_s``; it tells something only if that is late."""
        if after_s > predicted_s * self.correction(now):
            self.learn(after_s, predicted_s, now)

    def learn(self, took_s: float, predicted_s: float, now: float) -> None:
        """Move the correction towards ``took_s / predicted_s``; no prediction teaches nothing."""
        if predicted_s <= 0:
            return
        ratio = min(max(took_s / predicted_s, 1 / _MOST_OFF), _MOST_OFF)
        known = math.log(self.correction(now))
        self._log_correction = known + _NEWEST * (math.log(ratio) - known)
        self._corrected_at = now

    def correction(self, now: float) -> float:
        """How many times longer than predicted requests take; returns to 1 without news."""
        if self._log_correction == 0.0:
            return 1.0
        idle_s = max(0.0, now - self._corrected_at - WINDOW_S)
        return math.exp(self._log_correction * 0.5 ** (idle_s / _HALF_LIFE_S))

    def observed(self, now: float) -> Observed | None:
        """Percentiles (nearest rank) of the last minute; ``None`` after too few answers."""
        if now - self._cached_at >= _REFRESH_S:
            self._cached, self._cached_at = self._look(now), now
        return self._cached

    def _look(self, now: float) -> Observed | None:
        answers = self._answers
        while answers and answers[0][0] < now - WINDOW_S:
            answers.popleft()
        if len(answers) < MIN_COUNT:
            return None
        took = sorted(seconds for _, seconds in answers)
        count = len(took)
        p50, p95, p99 = (took[math.ceil(share * count) - 1] for share in (0.5, 0.95, 0.99))
        since_s = max(1.0, now - answers[0][0])
        return Observed(count, p50, p95, p99, count / since_s * 60)
