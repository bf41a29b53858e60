"""Talking to a Hugging Face hub: patience with faults that pass, one kind of error for the rest.

huggingface_hub's two majors sit on different HTTP libraries (requests, httpx2), whose connection
errors have no common base.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
_TRANSPORTS = frozenset({"requests", "urllib3", "httpx", "httpx2", "httpcore", "http"})


class HubError(RuntimeError):
    """The hub did not do what was asked.

    Attributes:
        status: HTTP status; ``None``: not reached at all.
    """

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


def ask(what: str, call: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """Call the hub; try again after overload, server errors and broken connections.

    Args:
        what: for messages, e.g. ``listing owner/name``.
        call: safe to repeat.
        attempts: how often at most.

    Raises:
        HubError: it still fails, or fails in a way that will not pass.
    """
    pause = _FIRST_PAUSE_S
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except Exception as raised:
            error = _from_hub(raised)
            if error is None:
                raise
            status = _status(error)
            if attempt == attempts or not _passes(error, status):
                raise HubError(f"{what}: {_reason(error, status)}", status) from raised
            logger.warning("%s: %s; again in %.1f s", what, _reason(error, status), pause)
        time.sleep(pause)
        pause *= 2
    raise AssertionError("attempts is at least 1")


def _from_hub(error: BaseException | None) -> BaseException | None:
    """What it says about the hub and the way to it; ``None`` for a full disk or a bug.

    Some calls wrap the fault of a single file in an error of their own.
    """
    while error is not None:
        if isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OfflineModeIsEnabled):
            return error
        if isinstance(error, ConnectionError | TimeoutError):
            return error
        if type(error).__module__.partition(".")[0] in _TRANSPORTS:
            return error
        error = error.__cause__
    return None


def _passes(error: BaseException, status: int | None) -> bool:
    if isinstance(error, OfflineModeIsEnabled):
        return False
    return status is None or status in (408, 425, 429) or status >= 500


def _status(error: BaseException) -> int | None:
    # A file that is neither here nor fetched carries the fault of the fetching as its cause.
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if response is not None:
            return int(response.status_code)
    return None


def _reason(error: BaseException, status: int | None) -> str:
    if status in (401, 403):
        return f"HTTP {status}: a token with access is needed (HF_TOKEN): {_first_line(error)}"
    if status is not None:
        return f"HTTP {status}: {_first_line(error)}"
    return f"cannot be reached: {type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
