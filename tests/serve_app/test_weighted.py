"""The weighted policy: shares in every window, availability, zero weights."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serve_app.routing.weighted import WeightedPolicy, normalised_weights
from tests.serve_app.conftest import snapshot


def split_100(cuts: list[int]) -> list[int]:
    """Whole weights that sum to 100."""
    edges = [0, *sorted(cuts), 100]
    return [high - low for low, high in pairwise(edges)]


@given(st.lists(st.integers(1, 99), min_size=1, max_size=7, unique=True).map(split_100))
def test_every_window_of_100_holds_the_weights(weights: list[int]) -> None:
    pools = [snapshot(f"p{i}", weight=w) for i, w in enumerate(weights)]
    policy = WeightedPolicy()
    served = [policy.rank(pools)[0] for _ in range(250)]
    for start in range(150):
        counts = Counter(served[start : start + 100])
        for pool in pools:
            assert abs(counts[pool.name] - pool.weight) <= 1


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=10))
def test_every_prefix_is_within_one_of_the_exact_share(weights: list[float]) -> None:
    pools = [snapshot(f"p{i}", weight=w) for i, w in enumerate(weights)]
    shares, policy, counts = normalised_weights(pools), WeightedPolicy(), Counter[str]()
    for sent in range(1, 200):
        counts[policy.rank(pools)[0]] += 1
        for pool in pools:
            assert abs(counts[pool.name] - sent * shares[pool.name]) <= 1 + 1e-6


POOLS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([0, 0, 1, 5, 40])), min_size=1, max_size=6
)


@given(st.lists(POOLS, min_size=1, max_size=20))
def test_only_available_pools_and_zero_weights_last(rounds: list[list[tuple[int, int]]]) -> None:
    policy = WeightedPolicy()
    for states in rounds:
        pools = [snapshot(f"p{i}", ready=r, weight=w) for i, (r, w) in enumerate(states)]
        ranked = policy.rank(pools)
        available = {pool.name: pool.weight for pool in pools if pool.available}
        assert sorted(ranked) == sorted(available)
        weights = [available[name] > 0 for name in ranked]
        assert weights == sorted(weights, reverse=True)


def test_a_lost_pool_gives_its_share_to_the_others() -> None:
    policy = WeightedPolicy()
    both = [snapshot("a", weight=90), snapshot("b", weight=10)]
    assert Counter(policy.rank(both)[0] for _ in range(10)) == {"a": 9, "b": 1}
    left = [snapshot("a", weight=90, ready=0), snapshot("b", weight=10)]
    assert Counter(policy.rank(left)[0] for _ in range(10)) == {"b": 10}
    assert policy.rank([snapshot("a", ready=0)]) == []


def test_pools_of_weight_zero_share_equally_when_alone() -> None:
    policy = WeightedPolicy()
    pools = [snapshot("a", weight=0), snapshot("b", weight=0), snapshot("c", weight=5, ready=0)]
    assert Counter(policy.rank(pools)[0] for _ in range(10)) == {"a": 5, "b": 5}
