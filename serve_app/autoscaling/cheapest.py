"""The least-cost fleet: an integer program over unlike pools, solved exactly by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from serve_app.autoscaling.views import PoolView

# Requirements are rounded up to this part of the smallest replica, so that noise that changes
# nothing is not solved for again.
_GRAIN = 0.05
_TINY = 1e-9
# Ten pools take milliseconds; this is for dozens of nearly equal ones.
_MOST_S = 1.0


def cheapest(
    pools: Sequence[PoolView],
    required: float,
    *,
    low: Mapping[str, int] | None = None,
    high: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Replica counts of least cost whose capacities sum to at least ``required``.

    ``min sum(price * n)`` subject to ``sum(capacity * n) >= required`` and the bounds, whole nodes
    only: the covering form of the bounded knapsack problem (Martello and Toth, Knapsack Problems,
    1990, ch. 3), as Mélange (arXiv 2404.14527) allots unlike GPUs, without its buckets, since work
    here is already one number. When even every pool at its most is too little, all get their
    most. A pool of capacity 0 stays at its least.

    Args:
        pools: what there is.
        required: row-steps a second.
        low, high: bounds instead of the pools' own.
    """
    low, high = low or {}, high or {}
    columns = []
    for pool in pools:
        lowest = math.ceil(low.get(pool.name, pool.min_replicas) / pool.per_node)
        highest = high.get(pool.name, pool.max_replicas) // pool.per_node
        step = pool.per_node
        columns.append((pool.price * step, pool.capacity * step, lowest, max(lowest, highest)))
    grain = _GRAIN * min((capacity for _, capacity, _, _ in columns if capacity > 0), default=1.0)
    nodes = _solve(tuple(columns), math.ceil(required / grain - _TINY) * grain)
    return {pool.name: count * pool.per_node for pool, count in zip(pools, nodes, strict=True)}


def cost_of(pools: Sequence[PoolView], counts: Mapping[str, int]) -> float:
    """US dollars an hour; a node that is begun is paid for."""
    return sum(
        pool.price * pool.per_node * math.ceil(counts.get(pool.name, 0) / pool.per_node)
        for pool in pools
    )


def capacity_of(pools: Sequence[PoolView], counts: Mapping[str, int]) -> float:
    """Row-steps a second."""
    return sum(pool.capacity * counts.get(pool.name, 0) for pool in pools)


@lru_cache(maxsize=4096)
def _solve(columns: tuple[tuple[float, float, int, int], ...], required: float) -> tuple[int, ...]:
    """Nodes per column (price, capacity, least, most)."""
    least = tuple(column[2] for column in columns)
    if sum(column[1] * column[2] for column in columns) >= required - _TINY:
        return least
    most = sum(capacity * high for _, capacity, _, high in columns)
    if most <= required + _TINY:
        return tuple(high if capacity > 0 else low for _, capacity, low, high in columns)
    # Pools of one price and capacity are one column: their symmetry would keep the solver busy.
    groups: dict[tuple[float, float], list[int]] = {}
    for index, (price, capacity, _, _) in enumerate(columns):
        if capacity > 0:
            groups.setdefault((price, capacity), []).append(index)
    merged = [
        (
            *key,
            sum(columns[index][2] for index in members),
            sum(columns[index][3] for index in members),
        )
        for key, members in groups.items()
    ]
    counts = list(least)
    for members, count in zip(groups.values(), _integer_program(merged, required), strict=True):
        left = count - sum(least[index] for index in members)
        for index in members:
            more = min(left, columns[index][3] - least[index])
            counts[index] += more
            left -= more
    return tuple(counts)


def _integer_program(
    columns: Sequence[tuple[float, float, int, int]], required: float
) -> list[int]:
    # Imported here: the ingress reads this package's plain values without needing a solver.
    import highspy
    import numpy as np

    prices, capacities, least, most = (np.array(part, float) for part in zip(*columns, strict=True))
    count = len(columns)
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = count, 1
    # Among equally cheap fleets the one with fewer nodes: a hair's breadth per node.
    program.col_cost_ = prices + 1e-6 * prices.max()
    program.col_lower_, program.col_upper_ = least, most
    program.row_lower_ = np.array([required])
    program.row_upper_ = np.array([highspy.kHighsInf])
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.array([0, count])
    program.a_matrix_.index_ = np.arange(count)
    program.a_matrix_.value_ = capacities
    program.integrality_ = [highspy.HighsVarType.kInteger] * count
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (
        ("output_flag", False),
        ("log_to_console", False),  # its solvers within print all the same
        ("threads", 1),
        ("presolve", "off"),  # takes longer than so small a program
        ("mip_heuristic_effort", 0.0),
        ("mip_rel_gap", 0.0),
        ("time_limit", _MOST_S),
    ):
        solver.setOptionValue(option, value)
    solver.passModel(program)
    solver.run()
    status = solver.getModelStatus()
    found = (
        solver.getInfo().primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    )
    # At the time limit the best fleet found so far is within a hair of the best there is.
    if status != highspy.HighsModelStatus.kOptimal and not found:
        raise RuntimeError(f"HiGHS: {solver.modelStatusToString(status)}")
    return [round(value) for value in solver.getSolution().col_value]
