"""An exact branch and bound for the covering form of the bounded knapsack problem."""

from __future__ import annotations

from collections.abc import Sequence

Column = tuple[float, float, int]
# Ten kinds take hundreds of steps; beyond this many a general solver is faster.
MOST_STEPS = 20_000
_TINY = 1e-9


def cover(columns: Sequence[Column], required: float) -> list[int] | None:
    """Counts of least cost whose sizes sum to at least ``required``.

    ``min sum(cost * n)`` subject to ``sum(size * n) >= required``, ``0 <= n <= most``. Depth first,
    kinds in the order of cost per size, each count from the highest useful one down; a branch ends
    where the linear relaxation of what is left cannot beat the best found (Martello and Toth,
    Knapsack Problems, 1990, ch. 3; Horowitz and Sahni, J. ACM 21(2), 1974). Equal input gives equal
    output.

    Args:
        columns: cost, size (both above 0) and most of each kind.
        required: what the sizes must sum to; all kinds at their most suffice.

    Returns:
        The counts in the order of ``columns``; ``None`` when it takes more than ``MOST_STEPS``.
    """
    order = sorted(range(len(columns)), key=lambda index: columns[index][0] / columns[index][1])
    kinds = [columns[index] for index in order]
    count = len(kinds)
    # What all kinds from each on can do together.
    left = [0.0] * (count + 1)
    for index in range(count - 1, -1, -1):
        left[index] = left[index + 1] + kinds[index][1] * kinds[index][2]

    def relaxed(index: int, need: float) -> float:
        """Least cost of ``need`` by kinds from ``index`` on, if they could be split."""
        cost = 0.0
        while need > _TINY and index < count:
            price, size, most = kinds[index]
            part = min(float(most), need / size)
            cost += part * price
            need -= part * size
            index += 1
        return cost

    best_cost = float("inf")
    best: list[int] = []
    chosen = [0] * count
    steps = 0

    def search(index: int, need: float, cost: float) -> bool:
        """Try all from ``index`` on; false when it took too long."""
        nonlocal best_cost, best, steps
        if need <= _TINY:
            if cost < best_cost:
                best_cost, best = cost, chosen[:]
            return True
        price, size, most = kinds[index]
        top = min(most, -int(-(need - _TINY) // size))
        for number in range(top, -1, -1):
            steps += 1
            if steps > MOST_STEPS:
                return False
            rest = need - number * size
            if rest > left[index + 1] + _TINY:
                break  # fewer of this kind leave even more to the others
            here = cost + number * price
            # The fewer of this kind, the dearer: the others cost more per size.
            if here + relaxed(index + 1, rest) >= best_cost:
                if rest > 0:
                    break
                continue  # this many are more than enough, so fewer may be cheaper
            chosen[index] = number
            if not search(index + 1, rest, here):
                return False
        chosen[index] = 0
        return True

    if not search(0, required, 0.0):
        return None
    counts = [0] * count
    for place, index in enumerate(order):
        counts[index] = best[place]
    return counts
