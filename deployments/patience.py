"""Waiting out what passes by itself: a hub that cannot be reached, a disk that is full.

Serve gives a deployment up after three failed starts of each replica, for good. So what may be
well again in a minute must not fail a start.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BUSY = 429


def may_pass(error: BaseException) -> bool:
    """Whether trying again later may help: a broken connection, a server's own error, a full disk.

    Looks through all that led to ``error``. Whatever else is wrong stays wrong.
    """
    return any(_passes(one) for one in _causes(error))


def patiently(
    work: Callable[[], T],
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of ``work``, which is tried again, ever more rarely, while what fails may pass.

    Args:
        work: may be called many times.
        tell: told why, each time that a new try is needed.
        sleep: waits so many seconds.

    Raises:
        Exception: of ``work``, when it will not pass.
    """
    wait_s = FIRST_WAIT_S
    while True:
        try:
            return work()
        except Exception as error:
            if not may_pass(error):
                raise
            why = f"{type(error).__name__}: {error}"
        log.warning("trying again in %.0f s: %s", wait_s, why)
        tell(why)
        sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _passes(error: BaseException) -> bool:
    # huggingface_hub's errors of either major carry the answer, if there was one.
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= 500 or status == _BUSY)
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return isinstance(error, httpx.TransportError | ConnectionError | TimeoutError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it, however it was raised."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
