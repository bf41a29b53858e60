"""What the nodes can hold: replica counts by presence, replicas without a node."""

from __future__ import annotations

import pytest

from serve_app.autoscaling.presence import (
    PoolNeed,
    Seen,
    decide,
    living_nodes,
    pool_needs,
    unplaced,
)

ALL = frozenset({"cpu", "cuda", "neuron"})
LAPTOP = {"CPU": 2.0}
GPU_NODE = {"CPU": 8.0, "GPU": 4.0}
INF_NODE = {"CPU": 4.0, "neuron_cores": 2.0}


def need(framework: str = "cuda", low: int = 0, high: int = 8, **needs: float) -> PoolNeed:
    return PoolNeed(
        needs=needs,
        special=set(needs) > {"CPU"} or not set(needs) <= {"CPU"},
        framework=framework,
        min_replicas=low,
        max_replicas=high,
    )


GPU = need(CPU=1, GPU=1)
NEURON = need("neuron", CPU=1, neuron_cores=2)
CPU = need("cpu", low=1, high=3, CPU=1)
POOLS = {"gpu": GPU, "neuron": NEURON, "cpu": CPU}
NONE = {"gpu": 0, "neuron": 0, "cpu": 1}

TABLE: list[tuple[str, dict[str, PoolNeed], Seen, dict[str, int]]] = [
    ("laptop", POOLS, Seen([LAPTOP], ALL), {"gpu": 0, "neuron": 0, "cpu": 1}),
    ("gpu node", POOLS, Seen([GPU_NODE], ALL), {"gpu": 4, "neuron": 0, "cpu": 1}),
    ("all", POOLS, Seen([LAPTOP, GPU_NODE, INF_NODE], ALL), {"gpu": 4, "neuron": 1, "cpu": 1}),
    (
        "no neuron build",
        POOLS,
        Seen([INF_NODE], frozenset({"cpu", "cuda"})),
        {"gpu": 0, "neuron": 0, "cpu": 1},
    ),
    ("empty cluster", POOLS, Seen([], ALL), {"gpu": 0, "neuron": 0, "cpu": 1}),
    ("max", {"gpu": need(GPU=1, high=2)}, Seen([GPU_NODE], ALL), {"gpu": 2}),
    (
        "cores on two nodes do not add up",
        {"neuron": need("neuron", neuron_cores=2)},
        Seen([{"neuron_cores": 1.0}, {"neuron_cores": 1.0}], ALL),
        {"neuron": 0},
    ),
    (
        "two pools share one kind",
        {"a": need(GPU=1), "b": need(GPU=1)},
        Seen([{"GPU": 3.0}], ALL),
        {"a": 2, "b": 1},
    ),
    ("half GPUs", {"a": need(GPU=0.5)}, Seen([{"GPU": 1.0}], ALL), {"a": 2}),
    (
        "CPU cores run out",
        {"cpu": CPU, "gpu": GPU},
        Seen([{"CPU": 2.0, "GPU": 4.0}], ALL),
        {"cpu": 1, "gpu": 1},
    ),
    ("one core and a GPU", POOLS, Seen([{"CPU": 1.0, "GPU": 1.0}], ALL), {**NONE, "gpu": 1}),
    (
        "three cores for two GPUs and the minimum",
        {"cpu": CPU, "gpu": GPU},
        Seen([{"CPU": 3.0, "GPU": 4.0}], ALL),
        {"cpu": 1, "gpu": 2},
    ),
    (
        "made-up hardware under framework cpu",
        {"fake": need("cpu", CPU=1, neuron_cores=2)},
        Seen([INF_NODE], frozenset({"cpu"})),
        {"fake": 1},
    ),
    ("cpu pool without minimum", {"c": need("cpu", CPU=1)}, Seen([LAPTOP], ALL), {"c": 0}),
]


@pytest.mark.parametrize(
    ("pools", "seen", "expected"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE]
)
def test_decide(pools: dict[str, PoolNeed], seen: Seen, expected: dict[str, int]) -> None:
    assert decide(pools, seen) == expected


RAW = {"gpu": {"accelerator": "x", "framework": "cuda", "resources": {"num_gpus": 1}}}


def test_needs_of_the_shipped_pools() -> None:
    needs = pool_needs(RAW)["gpu"]
    assert needs.special
    assert needs.needs == {"CPU": 1.0, "GPU": 1.0}


def test_a_pool_whose_settings_lack_something_gets_no_replica() -> None:
    raw = {"accelerator": "inf2", "framework": "neuron"}
    raw |= {"resources": {"num_cpus": 0, "resources": {"neuron_cores": 2}}}
    seen = Seen([INF_NODE], ALL)
    assert decide(pool_needs({"neuron": raw}), seen) == {"neuron": 0}
    assert decide(pool_needs({"neuron": raw | {"artifact": {"source": "/graphs"}}}), seen) == {
        "neuron": 1
    }


def test_dead_nodes_do_not_count() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": False, "Resources": {"GPU": 1}}]
    assert living_nodes(nodes) == [{"CPU": 1.0}]


UNPLACED: list[tuple[str, dict[str, int], list[dict[str, float]], dict[str, int]]] = [
    ("all fit", {"gpu": 2, "neuron": 1, "cpu": 1}, [LAPTOP, GPU_NODE, INF_NODE], {}),
    ("no node", {"gpu": 2, "neuron": 1, "cpu": 1}, [LAPTOP], {"gpu": 2, "neuron": 1}),
    ("one short", {"gpu": 5, "cpu": 0}, [GPU_NODE], {"gpu": 1}),
    ("nothing asked for", {}, [], {}),
    (
        "accelerators come before plain pools",
        {"gpu": 1, "cpu": 1},
        [{"CPU": 1.0, "GPU": 1.0}],
        {"cpu": 1},
    ),
]


@pytest.mark.parametrize(
    ("targets", "nodes", "missing"), [t[1:] for t in UNPLACED], ids=[t[0] for t in UNPLACED]
)
def test_unplaced(
    targets: dict[str, int], nodes: list[dict[str, float]], missing: dict[str, int]
) -> None:
    expected = dict.fromkeys(POOLS, 0) | missing
    assert unplaced(POOLS, targets, Seen(nodes, ALL)) == expected


def test_pools_that_share_hardware_share_its_want() -> None:
    pools = {"a": need(GPU=1), "b": need(GPU=1)}
    assert unplaced(pools, {"a": 3, "b": 1}, Seen([{"GPU": 2.0}], ALL)) == {"a": 2, "b": 0}


def test_who_serves_keeps_its_place() -> None:
    pools = {"a": need(GPU=1), "b": need(GPU=1)}
    seen = Seen([{"GPU": 5.0}], ALL)
    assert unplaced(pools, {"a": 5, "b": 5}, seen, {"a": 5, "b": 0}) == {"a": 0, "b": 5}
    assert unplaced(pools, {"a": 3, "b": 5}, seen, {"a": 5, "b": 0}) == {"a": 0, "b": 3}
