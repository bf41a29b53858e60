"""What the requests ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.service import PROMPT

# The API's seeds have 32 bits.
_SEEDS = 2**32


def bodies(
    given: Mapping[str, Any] | None = None, pool: str | None = None, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Bodies without end, each with a seed and a prompt of its own, so that no cache answers.

    Args:
        given: fields of every body; a prompt in it is everyone's, and encoded once by a replica.
        pool: pins every request.
        seed: of the first one; the same one gives the same bodies.
    """
    pin = {} if pool is None else {"pool": pool}
    while True:
        number = seed % _SEEDS
        # A replica remembers the latest prompts: with one for all, encoding would cost nothing.
        yield {"prompt": f"{PROMPT} {number}", "seed": number, **(given or {}), **pin}
        seed += 1
