"""How the commands end, for scripts."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of ``python -m loadtest``; 2 is argparse's own for a wrong command line."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    NOT_APPLIED = 5
    INTERRUPTED = 130
