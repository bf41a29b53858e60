"""How many request bodies may arrive slowly: each holds a place in the ingress all the while."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# A body that has not arrived by then counts as slow: longer than one takes that was sent at once
# through a proxy with hundreds of requests in its hands.
GRACE_S = 5.0
# Where the event loop is so late itself, the body may be here and unread.
_LATE_S = 0.1
# Of the requests that an ingress replica takes at once.
_SHARE, _SHARE_OF_ONE = 4, 16


@dataclass(slots=True)
class Reading:
    """One body being read.

    Attributes:
        timer: ends its grace.
        slow: it is counted.
        refused: it was one too many; its time limit has been set to now.
    """

    timer: asyncio.TimerHandle | None = None
    slow: bool = False
    refused: bool = False


class SlowBodies:
    """Counts the slow bodies of one ingress replica, and by caller; used on one event loop.

    Args:
        places: requests that the ingress replica takes at once; a quarter of them may have slow
            bodies, a sixteenth of them those of one caller.
    """

    def __init__(self, places: int) -> None:
        self._most = max(1, places // _SHARE)
        self._most_of_one = max(1, places // _SHARE_OF_ONE)
        self._callers: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._callers.total()

    @contextmanager
    def reading(self, caller: str, limit: asyncio.Timeout) -> Iterator[Reading]:
        """Read a body of ``caller`` inside; ``limit`` ends when it is slow and one too many."""
        reading = Reading()
        self._give_grace(caller, reading, limit)
        try:
            yield reading
        finally:
            if reading.timer is not None:
                reading.timer.cancel()
            if reading.slow:
                self._callers[caller] -= 1
                if not self._callers[caller]:
                    del self._callers[caller]

    def _give_grace(self, caller: str, reading: Reading, limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        reading.timer = loop.call_later(GRACE_S, self._is_slow, caller, reading, limit)

    def _is_slow(self, caller: str, reading: Reading, limit: asyncio.Timeout) -> None:
        if (
            reading.timer is not None
            and asyncio.get_running_loop().time() - reading.timer.when() > _LATE_S
        ):
            self._give_grace(caller, reading, limit)
            return
        if len(self) >= self._most or self._callers[caller] >= self._most_of_one:
            reading.refused = True
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
        else:
            reading.slow = True
            self._callers[caller] += 1
