"""The ``lora`` field: which names are known where; only pools with the adapter are asked."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from deployments.messages import ImageRequest
from deployments.options import LoraOptions
from serve_app.api.application import create_app
from serve_app.api.errors import ApiError
from serve_app.api.front import Front, default_work
from serve_app.api.order import known_lora
from serve_app.app import replica_options
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.dispatcher import Dispatcher
from serve_app.routing.outcome import DispatchError
from serve_app.routing.router import Wishes
from serve_app.routing.snapshot import PoolState
from serve_app.routing.work import Work
from serve_app.settings import Settings
from serve_app.validation import SettingsError
from tests.serve_app.conftest import MODEL, FakeMeasurements, FakePainter, FakeRouting, snapshot
from tests.serve_app.test_router import pool, refused, send, went

FLAT = {"source": "./flat", "scale": 0.5}
GRAPHS = {"source": "./graphs"}
INK = {"source": "someone/ink", "revision": "abc", "weight_name": "ink.safetensors"}


def settings(**pools: dict[str, Any]) -> Settings:
    plain = {"accelerator": "cpu", "framework": "cpu"}
    return Settings.parse({"pools": {name: plain | more for name, more in pools.items()}})


THREE = settings(
    both={"loras": {"flat": FLAT, "ink": INK}},
    fused={"loras": {"ink": INK}, "fuse_lora": True},
    plain={},
)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loras": {"a b": FLAT}}, ["loras", "'a b'"]),
        ({"loras": {"a": {"source": "embedded"}}}, ["loras.a.source", "folder"]),
        ({"loras": {"a": {"source": "x/y"}}}, ["loras.a", "revision is required"]),
        ({"loras": {"a": {"source": "x/y", "revision": "r"}}}, ["loras.a", "weight_name"]),
        ({"loras": {"a": FLAT | {"weight_name": "w.bin"}}}, ["weight_name", "'w.bin'"]),
        ({"loras": {"a": FLAT | {"scale": 99}}}, ["loras.a.scale", "at most 10"]),
        ({"loras": {"a": FLAT, "b": FLAT}, "fuse_lora": True}, ["fuse_lora", "loras has 2"]),
        ({"fuse_lora": True}, ["fuse_lora", "loras has 0"]),
        (
            {"loras": {"a": FLAT}, "framework": "neuron"},
            ["loras", "'neuron'", "compiled in", "compile --lora"],
        ),
        ({"loras": {"a": FLAT}, "artifact": GRAPHS}, ["loras", "artifact", "fuse_lora: true"]),
        ({"engine": {"torch_compile": "off"}}, ["engine.torch_compile", "'cuda'"]),
        (
            {"framework": "cuda", "artifact": GRAPHS, "engine": {"cuda_graphs": False}},
            ["engine.cuda_graphs", "artifact"],
        ),
        ({"engine": {"compiled_sizes": [[512, 1]]}}, ["compiled_sizes", "at least 8"]),
    ],
)
def test_bad_settings(changes: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(cpu=changes)
    for word in named:
        assert word in str(caught.value)


def test_one_name_is_one_adapter() -> None:
    with pytest.raises(SettingsError, match="'flat' of pools 'a' and 'b' differs"):
        settings(a={"loras": {"flat": FLAT}}, b={"loras": {"flat": FLAT | {"scale": 1}}})
    assert THREE.loras == ["flat", "ink"]


def test_a_replica_is_told_its_pools_adapters() -> None:
    told = replica_options("both", THREE.pools["both"], THREE)
    assert told.loras == (
        LoraOptions(name="flat", source="./flat", scale=0.5),
        LoraOptions(
            name="ink", source="someone/ink", revision="abc", weight_name="ink.safetensors"
        ),
    )
    assert not told.fuse_lora
    assert replica_options("fused", THREE.pools["fused"], THREE).fuse_lora


@pytest.mark.parametrize(
    ("lora", "pool_name", "status", "words"),
    [
        (None, None, None, ()),
        ("flat", None, None, ()),
        ("ink", "fused", None, ()),
        ("flaat", None, 404, ("'flaat'", "flat, ink", "did you mean 'flat'")),
        ("flat", "fused", 404, ("'flat' in pool 'fused'", "declared: ink")),
        ("flat", "plain", 404, ("declared: none",)),
        (None, "fused", 400, ("missing", "in pool 'fused'", "ink")),
    ],
)
def test_known_adapters(
    lora: str | None, pool_name: str | None, status: int | None, words: tuple[str, ...]
) -> None:
    if status is None:
        assert known_lora(lora, pool_name, THREE) == lora
        return
    with pytest.raises(ApiError) as caught:
        known_lora(lora, pool_name, THREE)
    assert caught.value.status == status
    for word in words:
        assert word in str(caught.value)


def test_over_http() -> None:
    painter = FakePainter()
    states = {name: PoolState(ready=1, status="HEALTHY") for name in THREE.pools}
    front = Front(
        settings=THREE,
        model=MODEL,
        pools=PoolDirectory(THREE.pools, lambda: states, default_work(MODEL)),
        painter=painter,
        routing=FakeRouting(),
        measurements=FakeMeasurements(),
    )
    with TestClient(create_app(front)) as client:
        assert client.get("/imagine", params={"prompt": "a", "lora": "flat"}).status_code == 200
        assert [request.lora for request in painter.requests] == ["flat"]
        answer = client.post("/imagine", json={"prompt": "a", "lora": "nope"})
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("lora_not_found", "lora")
        assert "declared: flat, ink" in error["message"]
        check_openai(client, painter)
        shown = {pool["name"]: pool for pool in client.get("/pools").json()["pools"]}
        assert [shown[name]["loras"] for name in THREE.pools] == [["flat", "ink"], ["ink"], []]
        assert [shown[name]["lora_fused"] for name in THREE.pools] == [False, True, False]


def check_openai(client: TestClient, painter: FakePainter) -> None:
    """The extension field ``lora`` of the OpenAI routes, and their envelope."""
    route, body = "/v1/images/generations", {"prompt": "a", "size": "64x64"}
    assert client.post(route, json=body | {"lora": "ink"}).status_code == 200
    assert [request.lora for request in painter.requests] == ["flat", "ink"]
    answer = client.post(route, json=body | {"lora": "inc"})
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", "lora")
    assert error["code"] == "lora_not_found"
    assert "no LoRA adapter 'inc'; declared: flat, ink" in error["message"]
    assert len(painter.requests) == 2


INK_WORK = Work(2, 10, (64, 64), "ink")
WITH = pool("b", weight=10, loras=("ink",))
FUSED = pool("f", weight=99, loras=("ink",), lora_fused=True)
WITHOUT = pool("a", weight=90)


@pytest.mark.parametrize(
    ("pools", "how", "expected"),
    [
        ([WITHOUT, WITH], {"work": INK_WORK}, ("b", "policy")),
        ([WITHOUT, WITH], {}, ("a", "policy")),
        ([FUSED, WITH], {}, ("b", "policy")),
        ([FUSED, WITH], {"work": INK_WORK}, ("f", "policy")),
        ([WITHOUT, WITH], {"work": INK_WORK, "wishes": Wishes(sticky="a")}, ("b", "policy")),
        ([WITHOUT, WITH], {"work": INK_WORK, "wishes": Wishes(pin="b")}, ("b", "pinned")),
        # A probe of a pool that lacks it is left to another request.
        ([pool("a", held=True, probe=True), WITH], {"work": INK_WORK}, ("b", "policy")),
        # The only pool that has it is used whatever its breaker says.
        (
            [WITHOUT, pool("b", held=True, loras=("ink",))],
            {"work": INK_WORK},
            ("b", "policy"),
        ),
        ([WITHOUT, WITH], {"work": INK_WORK, "failed": ("b",)}, ("b", "retry")),
    ],
)
def test_only_pools_with_the_adapter_are_asked(
    pools: list[Any], how: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert went(send(*pools, **how)) == expected


def test_size_and_adapter_must_both_fit() -> None:
    small = frozenset({(64, 64)})
    wide = Work(2, 10, (128, 64), "ink")
    fixed = pool("b", weight=99, loras=("ink",), sizes=small)
    free = pool("c", weight=1, loras=("ink",))
    assert went(send(WITHOUT, fixed, free, work=wide)) == ("c", "policy")
    refusal = refused(send(WITHOUT, fixed, work=wide))
    assert (refusal.code, refusal.param) == ("invalid_request", "width")
    assert "b: 64 x 64" in refusal.message
    assert "a: " not in refusal.message
    # The pool that has both is down: the others' sizes are beside the point.
    gone = pool("c", ready=0, loras=("ink",))
    assert refused(send(pool("a", sizes=small), gone, work=wide)).code == "unavailable"


def test_refusals_speak_of_the_pools_that_have_it() -> None:
    gone = pool("b", ready=0, loras=("ink",))
    refusal = refused(send(WITHOUT, gone, work=INK_WORK))
    assert refusal.code == "unavailable"
    assert "LoRA adapter 'ink'" in refusal.message
    assert "b: " in refusal.message
    assert "a: " not in refusal.message
    full = pool("b", waiting=9, loras=("ink",))
    crowded = refused(send(WITHOUT, full, work=INK_WORK, max_wait_s=5))
    assert (crowded.code, "on b" in crowded.message) == ("overloaded", True)


def test_shares_of_others_hold_beside_requests_with_adapters() -> None:
    from serve_app.routing.policies import POLICIES, PolicyOptions
    from serve_app.routing.router import Decision, WaitLimits, route

    policy = POLICIES["weighted"](PolicyOptions())
    pools = [snapshot("a", weight=3), snapshot("b", weight=1, loras=("ink",))]
    chosen: list[str] = []
    for i in range(200):
        lora = "ink" if i % 2 else None
        work = Work(2, 10, lora=lora)
        decision = route(pools, policy, work, 0.0, wishes=Wishes(), limits=WaitLimits())
        assert isinstance(decision, Decision)
        assert lora is None or decision.pool.name == "b"
        if lora is None:
            chosen.append(decision.pool.name)
    assert chosen.count("a") >= 75


async def test_the_dispatcher_sends_it_where_the_adapter_is_or_says_why_not() -> None:
    ready = {"both": 1, "plain": 1, "fused": 0}
    directory = PoolDirectory(
        THREE.pools,
        lambda: {name: PoolState(ready=count) for name, count in ready.items()},
        default_work(MODEL),
    )
    sent: list[str] = []

    class Handle:
        def __init__(self, name: str) -> None:
            self.name = name

        def generate(self, request: ImageRequest, watch: Any = None) -> Any:
            sent.append(self.name)
            raise DispatchError("generation_failed", "stop here")

    dispatcher = Dispatcher(
        {name: Handle(name) for name in THREE.pools},
        directory,
        reference_pixels=64 * 64,
        timeout_s=5,
    )
    request = ImageRequest(
        request_id="r", prompt="a", negative_prompt="", width=64, height=64,
        num_inference_steps=2, guidance_scale=2.0, seed=0, lora="flat",
    )  # fmt: skip
    for _ in range(5):
        with pytest.raises(DispatchError, match="stop here"):
            await dispatcher.paint(request)
    assert set(sent) == {"both"}
    ready["both"] = 0
    with pytest.raises(DispatchError) as caught:
        await dispatcher.paint(request)
    assert caught.value.code == "unavailable"
