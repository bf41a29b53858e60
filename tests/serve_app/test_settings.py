"""Settings: what is refused, and that each message names key, value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.settings import Settings
from serve_app.validation import SettingsError

POOL = {"accelerator": "cpu", "framework": "cpu"}


def with_pool(**changes: Any) -> dict[str, Any]:
    return {"pools": {"cpu": {**POOL, **changes}}}


BAD: list[tuple[str, Any, list[str]]] = [
    ("no pools", {}, ["pools", "required"]),
    ("empty pools", {"pools": {}}, ["pools", "at least 1"]),
    ("pools no mapping", {"pools": [1]}, ["pools", "mapping"]),
    ("not a mapping", 3, ["3", "mapping"]),
    ("unknown top key", {"pools": {"a": POOL}, "poolz": 1}, ["poolz", "did you mean 'pools'"]),
    ("unknown pool key", with_pool(wieght=1), ["pools.cpu.wieght", "did you mean 'weight'"]),
    ("unknown engine key", with_pool(engine={"row": 1}), ["pools.cpu.engine.row", "max_rows"]),
    ("pool name", {"pools": {"my-pool": POOL}}, ["'my-pool'", "identifier"]),
    ("pool named ingress", {"pools": {"Ingress": POOL}}, ["'Ingress'", "taken"]),
    ("no framework", {"pools": {"a": {"accelerator": "x"}}}, ["pools.a.framework", "required"]),
    ("framework", with_pool(framework="tpu"), ["framework", "'tpu'", "'cuda'"]),
    ("empty accelerator", with_pool(accelerator=""), ["accelerator", "''"]),
    ("accelerator not printable", with_pool(accelerator="a\nb"), ["accelerator"]),
    ("negative weight", with_pool(weight=-1), ["weight", "-1", "at least 0"]),
    ("NaN weight", with_pool(weight=float("nan")), ["weight", "nan", "finite"]),
    ("infinite weight", with_pool(weight=float("inf")), ["weight", "inf", "finite"]),
    ("weight text", with_pool(weight="heavy"), ["weight", "'heavy'", "number"]),
    ("min above max", with_pool(min_replicas=3, max_replicas=2), ["min_replicas 3", "2"]),
    (
        "nodes come whole",
        with_pool(max_replicas=4, min_replicas=0, elastic={"replicas_per_node": 8}),
        ["max_replicas 4", "replicas_per_node 8", "whole"],
    ),
    (
        "no time to provision",
        with_pool(elastic={"provisioning_s": 0}),
        ["provisioning_s", "above 0"],
    ),
    ("unknown elastic key", with_pool(elastic={"start": 1}), ["elastic.start", "start_s"]),
    ("max 0", with_pool(max_replicas=0), ["max_replicas", "at least 1"]),
    ("fraction of 2", with_pool(resources={"num_gpus": 1.5}), ["num_gpus", "1.5", "whole"]),
    (
        "half a core",
        with_pool(resources={"resources": {"neuron_cores": 0.5}}),
        ["resources.neuron_cores", "0.5", "whole number"],
    ),
    ("GPU by name", with_pool(resources={"resources": {"GPU": 1}}), ["'GPU'", "num_gpus"]),
    ("emulated without speed", with_pool(framework="emulated"), ["'emulated'", "needs emulation"]),
    ("emulation of a CPU", with_pool(emulation={"step_s": 1}), ["'cpu'", "takes no emulation"]),
    (
        "emulated speed 0",
        with_pool(framework="emulated", emulation={"step_s": 0}),
        ["emulation.step_s", "above 0"],
    ),
    (
        "neuron without cores",
        with_pool(framework="neuron", artifact={"source": "/graphs"}),
        ["framework 'neuron'", "neuron_cores", "got None"],
    ),
    (
        "neuron on too many cores",
        with_pool(framework="neuron", resources={"resources": {"neuron_cores": 4}}),
        ["neuron_cores", "1 or 2", "got 4"],
    ),
    ("dtype", with_pool(engine={"dtype": "int4"}), ["dtype", "'int4'", "bfloat16"]),
    (
        "artifact from nowhere",
        with_pool(artifact={"source": "artifacts"}),
        ["artifact: source 'artifacts' is not a folder", "owner/name"],
    ),
    ("artifact without source", with_pool(artifact={}), ["artifact.source", "required"]),
    (
        "revision without tag",
        with_pool(artifact={"source": "./a", "revision": "0" * 40}),
        ["revision pins a tag"],
    ),
    (
        "revision that is a branch",
        with_pool(artifact={"source": "a/b", "tag": "x", "revision": "main"}),
        ["artifact.revision", "'main'"],
    ),
    ("tag that is a path", with_pool(artifact={"source": "./a", "tag": "../b"}), ["artifact.tag"]),
    ("fallback", with_pool(artifact={"source": "./a", "fallback": "eager"}), ["'eager'", "'jit'"]),
    (
        "neuron compiled just in time",
        with_pool(framework="neuron", artifact={"source": "a/b", "fallback": "jit"}),
        ["artifact.fallback 'jit' is not for framework 'neuron'"],
    ),
    (
        "neuron with a compile cache",
        with_pool(framework="neuron", artifact={"source": "a/b", "load": "cache"}),
        ["artifact.load 'cache' is not for framework 'neuron'"],
    ),
    ("rows", with_pool(engine={"max_rows": 1}), ["max_rows", "at least 2"]),
    ("deterministic", with_pool(engine={"deterministic": "maybe"}), ["deterministic", "true or"]),
    ("hub without revision", {**with_pool(), "model": {"source": "a/b"}}, ["'a/b'", "revision"]),
    (
        "revision of a folder",
        {**with_pool(), "model": {"source": "./x", "revision": "main"}},
        ["'main'", "local folder"],
    ),
    ("revision of embedded", {**with_pool(), "model": {"revision": "v1"}}, ["'v1'", "embedded"]),
    (
        "no hub id",
        {**with_pool(), "model": {"source": "a b", "revision": "x"}},
        ["'a b'", "hub id"],
    ),
    ("no checker", {**with_pool(), "safety": {}}, ["safety.source", "required"]),
    ("embedded checker", {**with_pool(), "safety": {"source": "embedded"}}, ["name a folder"]),
    ("checker not pinned", {**with_pool(), "safety": {"source": "a/b"}}, ["'a/b'", "revision"]),
    ("limits order", {**with_pool(), "limits": {"min_width": 999, "max_width": 99}}, ["999", "99"]),
    ("max_n", {**with_pool(), "limits": {"max_n": 0}}, ["limits.max_n", "0", "at least 1"]),
    ("timeout", {**with_pool(), "limits": {"request_timeout_s": 0}}, ["above 0"]),
    ("poll", {**with_pool(), "ingress": {"poll_interval_s": 0}}, ["poll_interval_s", "0.1"]),
]


@pytest.mark.parametrize(("raw", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_settings_are_explained(raw: Any, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.parse(raw)
    for word in words:
        assert word in str(caught.value)


def test_every_error_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.parse(with_pool(weight=-1, max_replicas=0, colour="red"))
    assert len(str(caught.value).splitlines()) == 4


def test_smallest_settings() -> None:
    settings = Settings.parse(with_pool())
    assert settings.model.kind == "embedded"
    assert settings.pools["cpu"].resources.needs() == {"CPU": 1.0}
    assert not settings.pools["cpu"].resources.special


@pytest.mark.parametrize(
    ("changes", "replicas"),
    [
        ({}, 1),
        ({"resources": {"num_cpus": 4}}, 1),
        ({"min_replicas": None}, 1),
        ({"min_replicas": 0}, 0),
        ({"resources": {"num_gpus": 1}}, 0),
        ({"resources": {"resources": {"neuron_cores": 2}}}, 0),
        ({"resources": {"num_gpus": 1}, "min_replicas": 2, "max_replicas": 2}, 2),
    ],
)
def test_a_pool_that_any_machine_can_host_has_a_replica_by_default(
    changes: dict[str, Any], replicas: int
) -> None:
    settings = Settings.parse(with_pool(**changes))
    assert settings.pools["cpu"].min_replicas == replicas
    assert Settings.parse(settings.model_dump()) == settings


def test_a_neuron_pool_lacks_what_it_cannot_start_without() -> None:
    cores = {"resources": {"neuron_cores": 1}}
    bare = Settings.parse(with_pool(framework="neuron", resources=cores)).pools["cpu"]
    assert bare.lacks == "artifact"
    whole = with_pool(framework="neuron", resources=cores, artifact={"source": "/graphs"})
    assert Settings.parse(whole).pools["cpu"].lacks == ""


def test_an_emulated_pool_says_so() -> None:
    raw = with_pool(framework="emulated", accelerator="inf2", emulation={"step_s": 0.1})
    assert Settings.parse(raw).pools["cpu"].label == "inf2 (emulated)"
