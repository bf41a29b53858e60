"""The least-cost fleet: an integer program over unlike pools, solved exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from serve_app.autoscaling.covering import Column, cover
from serve_app.autoscaling.views import PoolView

# Requirements are rounded up to this part of the smallest replica, so that noise that changes
# nothing is not solved for again.
_GRAIN = 0.05
_TINY = 1e-9
# Nodes, not seconds: the same input must give the same fleet on a busy machine too.
_MOST_NODES = 2000


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
    """Nodes per column (price, capacity, least, most), which at their most suffice."""
    highest = max(column[0] for column in columns)
    largest = max(column[1] for column in columns)
    kinds = [
        # Among equally cheap fleets the one with fewer nodes, then the one that can do more: by a
        # hair's breadth. So a higher requirement never gets less capacity.
        (price + highest * (1e-6 - 1e-8 * capacity / largest), capacity, high - low)
        for price, capacity, low, high in columns
    ]
    need = required - sum(capacity * low for _, capacity, low, _ in columns)
    more = cover(kinds, need)
    if more is None:
        more = _by_highs(kinds, need)
    return [low + count for (_, _, low, _), count in zip(columns, more, strict=True)]


def _by_highs(kinds: Sequence[Column], required: float) -> list[int]:
    """The same as ``cover``, for dozens of kinds that are nearly equally good."""
    # Imported here: the ingress reads this package's plain values without needing a solver.
    import highspy
    import numpy as np

    costs, sizes, most = (np.array(part, float) for part in zip(*kinds, strict=True))
    count = len(kinds)
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = count, 1
    program.col_cost_ = costs
    program.col_lower_, program.col_upper_ = np.zeros(count), most
    program.row_lower_ = np.array([required])
    program.row_upper_ = np.array([highspy.kHighsInf])
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.array([0, count])
    program.a_matrix_.index_ = np.arange(count)
    program.a_matrix_.value_ = sizes
    program.integrality_ = [highspy.HighsVarType.kInteger] * count
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (
        ("output_flag", False),
        ("log_to_console", False),  # its solvers within print all the same, once in hundreds
        ("threads", 1),
        ("presolve", "off"),  # takes longer than so small a program
        ("mip_heuristic_effort", 0.0),
        ("mip_rel_gap", 0.0),
        ("mip_max_nodes", _MOST_NODES),
    ):
        solver.setOptionValue(option, value)
    solver.passModel(program)
    solver.run()
    status = solver.getModelStatus()
    found = (
        solver.getInfo().primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    )
    # At the limit of nodes the best fleet found so far is within a hair of the best there is.
    if status != highspy.HighsModelStatus.kOptimal and not found:
        raise RuntimeError(f"HiGHS: {solver.modelStatusToString(status)}")
    return [round(value) for value in solver.getSolution().col_value]
