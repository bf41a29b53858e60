"""What batching can gain here at all: the stock pipeline by pictures per call. Prints JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time

from benchmarks.peers.contestants import MOST
from benchmarks.prompt import Prompt
from benchmarks.stock import paint, start

TURNS = 4


def main() -> None:
    """Images a second by pictures in one call of eight steps; sizes take turns."""
    start()
    counts = [1]
    while counts[-1] < MOST:
        counts.append(2 * counts[-1])
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(TURNS):
        for count in counts:
            began = time.perf_counter()
            paint([Prompt(prompt="a red circle", seed=seed) for seed in range(count)])
            rates[count].append(count / (time.perf_counter() - began))
    sys.stdout.write(json.dumps({str(c): statistics.median(r) for c, r in rates.items()}))


if __name__ == "__main__":
    main()
