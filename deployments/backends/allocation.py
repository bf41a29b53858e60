"""How the C library hands memory back: it must not between two steps, which want the same again."""

from __future__ import annotations

import ctypes
import logging
import platform

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt (3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Freed memory at the top of a heap that stays with the process.
_KEPT_BYTES = 256 << 20
# What is larger has a mapping of its own: half of a thread's heap, which glibc maps as one.
_MAPPED_BYTES = 32 << 20


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next step instead of giving it back to the kernel.

    Its own thresholds follow the sizes that are freed, so a step or a decode of several pictures
    maps its activations anew and takes a page fault for each of their pages. Whether it holds
    for this process is the answer: elsewhere than on glibc nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = all(
        mallopt(parameter, size) == 1
        for parameter, size in (
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_MMAP_THRESHOLD, _MAPPED_BYTES),
        )
    )
    if not kept:
        logger.warning("glibc refused the allocation thresholds; steps take more page faults")
    return kept
