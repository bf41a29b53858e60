"""Replica counts by presence: the decision as a table, the adapter's promises."""

from __future__ import annotations

import logging
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.autoscaling.presence import (
    PoolNeed,
    PresencePolicy,
    Seen,
    changes,
    decide,
    living_nodes,
    pool_needs,
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


def context(current: int, target: int) -> SimpleNamespace:
    return SimpleNamespace(current_num_replicas=current, target_num_replicas=target)


def test_a_pool_that_stays_at_zero_is_not_named() -> None:
    ids = {name: SimpleNamespace(name=name) for name in ("gpu", "neuron", "cpu", "other")}
    key = {name: _Id(name) for name in ids}
    contexts: dict[Any, Any] = {
        key["gpu"]: context(0, 0),
        key["neuron"]: context(0, 1),
        key["cpu"]: context(1, 1),
        key["other"]: context(2, 2),
    }
    found = changes(contexts, {"gpu": 0, "neuron": 0, "cpu": 1})
    assert {i.name: n for i, n in found.items()} == {"neuron": 0, "cpu": 1}


class _Id:
    def __init__(self, name: str) -> None:
        self.name = name


RAW = {"gpu": {"accelerator": "x", "framework": "cuda", "resources": {"num_gpus": 1}}}


def call_until(policy: PresencePolicy, contexts: dict[Any, Any]) -> dict[Any, int]:
    for _ in range(200):
        found, _state = policy(contexts)
        if found:
            return found
        time.sleep(0.01)
    return {}


def test_policy_names_what_the_thread_saw() -> None:
    policy = PresencePolicy(RAW, look=lambda: Seen([{"CPU": 4.0, "GPU": 2.0}], ALL), poll_s=0.01)
    gpu = _Id("gpu")
    assert call_until(policy, {gpu: context(0, 0)}) == {gpu: 1}  # max_replicas is 1


def test_policy_never_blocks() -> None:
    release, looks = threading.Event(), []

    def stuck() -> Seen:
        looks.append(1)
        if len(looks) > 1:
            release.wait(10)
        return Seen([{"CPU": 1.0, "GPU": 1.0}], ALL)

    gpu = _Id("gpu")
    policy = PresencePolicy(RAW, look=stuck, poll_s=0.01)
    began = time.monotonic()
    assert policy({gpu: context(1, 1)})[0] in ({}, {gpu: 1})
    assert call_until(policy, {gpu: context(1, 1)}) == {gpu: 1}
    for _ in range(20):
        assert policy({gpu: context(1, 1)})[0] == {gpu: 1}
    assert time.monotonic() - began < 5
    release.set()


def test_policy_never_raises_and_complains_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Seen:
        raise OSError("no GCS")

    policy = PresencePolicy(RAW, look=broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            policy.poll()
            assert policy({_Id("gpu"): object()}) == ({}, {})
    assert [r for r in caplog.records if "no GCS" in r.message][1:] == []
    assert "no GCS" in caplog.text


@pytest.mark.parametrize("raw", [None, {}, {"gpu": {"framework": "tpu"}}, {"gpu": 3}])
def test_policy_with_bad_pools_holds_every_count(
    raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    policy = PresencePolicy(raw, look=lambda: Seen([], ALL))
    policy.poll()
    assert policy({_Id("gpu"): context(1, 1)}) == ({}, {})
    assert "stays as it is" in caplog.text


def test_a_failed_look_keeps_the_last_decision() -> None:
    answers = [Seen([{"CPU": 1.0, "GPU": 1.0}], ALL)]
    policy = PresencePolicy(RAW, look=lambda: answers.pop(), poll_s=60)
    policy.poll()
    policy.poll()
    gpu = _Id("gpu")
    assert policy({gpu: context(1, 1)})[0] == {gpu: 1}


def test_a_broken_context_is_survived() -> None:
    policy = PresencePolicy(RAW, look=lambda: Seen([], ALL), poll_s=60)
    policy.poll()
    assert policy({object(): object()}) == ({}, {})


def test_needs_of_the_shipped_pools() -> None:
    needs = pool_needs(RAW)["gpu"]
    assert needs.special
    assert needs.needs == {"CPU": 1.0, "GPU": 1.0}


def test_dead_nodes_do_not_count() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": False, "Resources": {"GPU": 1}}]
    assert living_nodes(nodes) == [{"CPU": 1.0}]


def test_module_needs_nothing_of_ours_at_import() -> None:
    # Serve carries the class by value into its controller.
    import serve_app.autoscaling.presence as module

    names = [getattr(value, "__name__", "") for value in vars(module).values()]
    ours = [name for name in names if name.startswith("serve_app.")]
    assert ours == []
