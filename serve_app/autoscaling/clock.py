"""Unix time that is read once: setting the node's clock later does not move it."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_unix() -> Callable[[], float]:
    """A clock of unix seconds that runs on evenly from now, whatever is done to the node's."""
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()
