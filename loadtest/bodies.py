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
    """Bodies without end, each with a seed of its own, so that no cache answers.

    Args:
        given: fields of every body; a prompt stands in where there is none.
        pool: pins every request.
        seed: of the first one.
    """
    pin = {} if pool is None else {"pool": pool}
    while True:
        yield {"prompt": PROMPT, "seed": seed % _SEEDS, **(given or {}), **pin}
        seed += 1
