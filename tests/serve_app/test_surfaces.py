"""Health, readiness, pools, docs; the OpenAPI document against real answers; no torch."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from starlette.testclient import TestClient

from serve_app.access.visit import Visit
from serve_app.api.application import create_app
from serve_app.api.fields import Fields
from serve_app.autoscaling.decider import Decider
from serve_app.autoscaling.presence import Seen, pool_needs
from serve_app.live import LiveSettings, ProfileSettings
from serve_app.routing.availability import Availability
from serve_app.routing.outcome import DispatchError
from serve_app.routing.router import Decision
from serve_app.routing.snapshot import PoolState
from serve_app.routing.work import Work
from serve_app.settings import Settings
from tests.serve_app.conftest import MODEL, Stand
from tests.serve_app.test_autoscaling_policy import FakeBoard
from tests.serve_app.test_bad_requests import TABLE, b64, flat, png

ROOT = Path(__file__).resolve().parents[2]


def test_health(stand: Stand) -> None:
    stand.states.clear()
    assert stand.client.get("/health").json() == {"status": "ok"}


def test_readiness_follows_the_pools(stand: Stand) -> None:
    response = stand.client.get("/readiness")
    assert response.status_code == 200
    assert response.json()["pools"]["cpu"] == {
        "accelerator": "cpu",
        "available": True,
        "ready_replicas": 1,
        "reason": None,
    }
    assert "hardware" in response.json()["pools"]["gpu"]["reason"]
    stand.states["cpu"] = PoolState(starting=1)
    response = stand.client.get("/readiness")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert "cpu: 1 replica(s) starting" in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "true"
    assert set(response.json()["pools"]) == {"cpu", "gpu"}


def test_readiness_is_counted_as_what_it_is(stand: Stand) -> None:
    visits: list[Visit] = []
    stand.front.observers = (visits.append,)
    stand.states["cpu"] = PoolState()
    with TestClient(create_app(stand.front)) as client:
        client.get("/readiness")
    assert [(visit.status, visit.code) for visit in visits] == [(503, "unavailable")]


def test_pools(stand: Stand) -> None:
    pools = {pool["name"]: pool for pool in stand.client.get("/pools").json()["pools"]}
    assert (pools["cpu"]["share"], pools["gpu"]["share"]) == (1.0, 0.0)
    stand.states["gpu"] = PoolState(ready=2, status="HEALTHY")
    pools = {pool["name"]: pool for pool in stand.client.get("/pools").json()["pools"]}
    assert (pools["cpu"]["share"], pools["gpu"]["share"]) == (0.0, 1.0)
    assert pools["gpu"]["ready_replicas"] == 2


def test_pools_tell_targets_reasons_and_when_they_changed(stand: Stand) -> None:
    raw = {
        "gpu": {
            "accelerator": "l4",
            "framework": "cuda",
            "resources": {"num_gpus": 1},
            "max_replicas": 4,
        }
    }
    board, nodes, now = FakeBoard(), list[dict[str, float]](), [1_000_000.0]
    decider = Decider(
        pool_needs(raw), {}, lambda: Seen(nodes, frozenset({"cuda"})), board, lambda: now[0]
    )
    stand.front.decision = board.decision

    def shown() -> tuple[Any, Any]:
        body = stand.client.get("/pools").json()
        gpu = next(pool for pool in body["pools"] if pool["name"] == "gpu")["autoscaling"]
        return body["autoscaling"]["decided_at"], gpu and {
            name: gpu[name] for name in ("target", "reason", "changed_at", "supply")
        }

    assert shown() == (None, None)
    board.decide({"at": 0.0, "faults": 3, "pools": {}})  # it has failed from the first
    assert shown() == (None, None)
    assert stand.client.get("/pools").json()["autoscaling"]["faults"] == 3
    decider.decide({}, {})
    steady = "as many as its hardware holds, within its bounds"
    never = {"target": 0, "reason": steady, "changed_at": None, "supply": None}
    assert shown() == (now[0], never)
    nodes.append({"CPU": 4.0, "GPU": 2.0})
    now[0] += 2
    changed_at = now[0]
    decider.decide({}, {})
    came = never | {"target": 2, "reason": "0 to 2: hardware seen", "changed_at": changed_at}
    assert shown() == (now[0], came)
    now[0] += 2
    decider.decide({}, {})
    assert shown() == (now[0], came)


def test_live_weights_show(stand: Stand) -> None:
    directory: Any = stand.front.pools
    stand.states["gpu"] = PoolState(ready=1)
    directory.configure(LiveSettings(weights={"cpu": 300}))
    pools = {pool["name"]: pool for pool in stand.client.get("/pools").json()["pools"]}
    assert pools["cpu"]["share"] == 0.75
    directory.configure(LiveSettings())
    pools = {pool["name"]: pool for pool in stand.client.get("/pools").json()["pools"]}
    assert pools["cpu"]["share"] == 0.0


def test_pools_tells_why_requests_went_where_they_did(stand: Stand) -> None:
    directory: Any = stand.front.pools
    directory.configure(
        LiveSettings(
            prices={"cpu": 0.9},
            profiles={"cpu": ProfileSettings(latency_s=0.5, images_per_minute=120)},
        )
    )
    record, now = directory.record("cpu"), time.monotonic()
    for _ in range(10):
        record.observations.answered(1.0, 0.5, now)
    record.load.add(Work(2, 8))
    journal = stand.front.routing.journal
    journal.decided(Decision(pool=directory.snapshots()[1], reason="retry", predicted_s=1.0))
    journal.failed("cpu", "lost")
    journal.refused("overloaded")
    shown = stand.client.get("/pools").json()
    assert (shown["policy"], shown["refusals"]) == ("weighted", {"overloaded": 1})
    cpu = next(pool for pool in shown["pools"] if pool["name"] == "cpu")
    assert cpu["cost_per_1000"] == pytest.approx(0.125)
    assert cpu["traffic_share"] == 1.0
    assert cpu["latency_s"] == {"p50": 1.0, "p95": 1.0, "p99": 1.0}
    assert cpu["queue"]["requests"] == 1
    assert cpu["queue"]["correction"] > 1.5
    # Two rows of two are taken; eight steps of 62.5 ms until they leave, and as many again.
    assert cpu["queue"]["predicted_s"] == pytest.approx(1.0 * cpu["queue"]["correction"])
    assert (cpu["decisions"], cpu["failures"], cpu["retries"]) == ({"retry": 1}, {"lost": 1}, 1)
    assert cpu["breaker"] == "closed"
    for second in (0, 1, 2):
        record.breaker.failed(now - 10 + second, now - 10 + second)
    cpu = next(p for p in stand.client.get("/pools").json()["pools"] if p["name"] == "cpu")
    assert cpu["breaker"] == "half_open"


def test_docs_page_shows_every_route_and_field(stand: Stand) -> None:
    response = stand.client.get("/docs")
    page = response.text
    style = page.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = response.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    assert page.count("<style") == 1
    assert not re.search(r"<script|\sstyle=|\son\w+=", page)
    document = stand.client.get("/openapi.json").json()
    for path in document["paths"]:
        assert path in page
    for schema in ("ImagineRequest", "ImageGenerationRequest", "ImageEditRequest"):
        for field in document["components"]["schemas"][schema]["properties"]:
            assert f"<code>{field}</code>" in page


class Document:
    """The OpenAPI document as a judge of real requests and answers."""

    def __init__(self, stand: Stand) -> None:
        self.document = stand.client.get("/openapi.json").json()

    def resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in node:
            found: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return dict(found)
        return node

    def validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        return Draft202012Validator({**schema, "components": self.document["components"]})

    def judge(self, response: Any) -> None:
        path, method = response.request.url.path, response.request.method.lower()
        if path.startswith("/v1/models/"):
            path = "/v1/models/{model}"
        described = self.document["paths"][path][method]["responses"][str(response.status_code)]
        media_type = response.headers["content-type"].split(";")[0]
        schema = described["content"][media_type]["schema"]
        if media_type == "application/json":
            self.validator(schema).validate(response.json())
        if media_type == "text/event-stream":
            blocks = [b.split("\n") for b in response.text.split("\n\n") if b and b[0] != ":"]
            assert blocks
            for name, data in blocks:
                one = {"event": name.removeprefix("event: "), "data": data.removeprefix("data: ")}
                self.validator(schema).validate(one)
        told = {name.lower() for name in described.get("headers", {})}
        for name, value in response.headers.items():
            if name not in ("content-type", "content-length"):
                assert name in told, f"{name} is not documented for {path} {response.status_code}"
                header = self.resolve({"$ref": f"#/components/headers/{_spelt(described, name)}"})
                self.validator(header["schema"]).validate(value)


def _spelt(described: dict[str, Any], name: str) -> str:
    return next(str(key) for key in described["headers"] if key.lower() == name)


def test_openapi_is_true_for_every_answer(stand: Stand) -> None:
    document = Document(stand)
    client, painter = stand.client, stand.painter
    body = {"prompt": "a red circle"}
    painter.truncated, painter.unknown_words = True, ("zebra",)
    for extra in (
        {},
        {"output_format": "webp"},
        {"n": 2},
        {"image": b64(png())},
        {"image": b64(png()), "mask": b64(flat("white"))},
        {"stream": True},
    ):
        document.judge(client.post("/imagine", json={**body, **extra}))
    document.judge(client.post("/imagine", json=body, headers={"accept": "application/json"}))
    document.judge(client.get("/imagine?prompt=a"))
    document.judge(client.get("/imagine?prompt=a&pool=x"))
    document.judge(client.get("/imagine?prompt=a", headers={"accept": "text/html"}))
    document.judge(client.post("/imagine", json={"prompt": ""}))
    document.judge(client.post("/imagine", json={**body, "pool": "x"}))
    document.judge(client.post("/imagine", content="x"))
    document.judge(client.post("/imagine", json={"prompt": "x" * 300_000}))
    failures: list[tuple[Any, int | None]] = [
        ("unavailable", 5),
        ("overloaded", 1),
        ("timeout", None),
        ("generation_failed", None),
    ]
    for code, wait in failures:
        painter.failure = DispatchError(code, "why", retry_after_s=wait)
        document.judge(client.post("/imagine", json=body))
    painter.failure = RuntimeError("inside")
    document.judge(client.post("/imagine", json=body))
    for path in ("/health", "/readiness", "/pools", "/docs", "/openapi.json"):
        document.judge(client.get(path))
    stand.states.clear()
    document.judge(client.get("/readiness"))
    document.judge(client.get("/pools"))


# What JSON Schema cannot say, or says otherwise.
BEYOND_SCHEMA = {
    "blank prompt",
    "NUL in prompt",
    "lone surrogate",
    "negative prompt NUL",
    "unknown pool",
    "n as image",
    "no steps left",
    "guidance 1e999",
    "head of a PNG",
    "mask size",
    "mask that marks nothing",
    "broken image with a mask",
}
WITHIN_SCHEMA = [
    bad
    for bad in TABLE
    if bad.fields
    and bad.name not in BEYOND_SCHEMA
    and bad.status != 406
    and not (bad.param in ("image", "mask") and bad.says and bad.name != "mask alone")
    and bad.name not in ("mask base64",)
]


@pytest.mark.parametrize("bad", WITHIN_SCHEMA, ids=lambda bad: bad.name)
def test_the_request_schema_refuses_what_the_service_refuses(stand: Stand, bad: Any) -> None:
    document = Document(stand)
    schema = document.document["components"]["schemas"]["ImagineRequest"]
    validator = document.validator(schema)
    assert validator.is_valid({"prompt": "a red circle", "seed": None, "width": 128})
    assert not validator.is_valid({"prompt": "a red circle", **bad.fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"strength": None},
        {"strength": None, "image": None},
        {"strength": None, "image": b64(png())},
        {"strength": 0.5, "image": b64(png())},
        {"image": b64(png())},
        {"scheduler": "lcm", "num_inference_steps": 50},
        {"scheduler": "lcm", "num_inference_steps": None},
        {"scheduler": None, "num_inference_steps": 60},
        {"num_inference_steps": 60},
        {"image": b64(png()), "mask": b64(flat("white"))},
        {"mask": None},
        {"stream": True, "partial_images": 3},
        {"partial_images": 0},
        {"partial_images": None, "stream": None},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_the_request_schema_admits_what_the_service_admits(
    stand: Stand, fields: dict[str, Any]
) -> None:
    body = {"prompt": "a red circle", **fields}
    document = Document(stand)
    schema = document.document["components"]["schemas"]["ImagineRequest"]
    document.validator(schema).validate(body)
    assert stand.client.post("/imagine", json=body).status_code == 200


def test_openapi_describes_every_route(stand: Stand) -> None:
    inner: Any = create_app(stand.front)
    while hasattr(inner, "_app"):
        inner = inner._app
    routes = {route.path.replace(":path}", "}") for route in inner.routes}
    assert routes == set(Document(stand).document["paths"])


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ({"num_inference_steps": 31}, False),
        ({"num_inference_steps": 31, "scheduler": "default"}, False),
        ({"num_inference_steps": 31, "scheduler": None}, False),
        ({"num_inference_steps": 31, "scheduler": "lcm"}, False),
        ({"num_inference_steps": 31, "scheduler": "euler"}, True),
        ({"num_inference_steps": 30}, True),
    ],
)
def test_a_model_whose_own_scheduler_is_lcm_bounds_the_steps(
    stand: Stand, body: dict[str, Any], fits: bool
) -> None:
    stand.front.model = dataclasses.replace(MODEL, lcm_by_default=True, lcm_max_steps=30)
    client = TestClient(create_app(stand.front))
    answer = client.post("/imagine", json=body | {"prompt": "a"})
    assert answer.status_code == (200 if fits else 400), answer.text
    assert fits or answer.json()["error"]["param"] == "num_inference_steps"
    schema = Fields.of(stand.front.settings, stand.front.model).schema()
    assert Draft202012Validator(schema).is_valid(body | {"prompt": "a"}) == fits


def test_no_torch_in_the_ingress_process() -> None:
    code = """
import sys
import yaml
import serve_app.ingress, serve_app.autoscaling.policy, serve_app.autoscaling.decider
from serve_app.app import build
from serve_app.access.visit import Visit
from serve_app.api.application import create_app
from tests.serve_app.conftest import (
    MODEL, FakeMeasurements, FakePainter, FakeRouting, make_settings
)
from serve_app.api.front import Front, default_work
from serve_app.routing.directory import PoolDirectory
config = yaml.safe_load(open("serve_config.yaml"))
build(config["applications"][0]["args"])
settings = make_settings()
create_app(Front(settings=settings, model=MODEL, painter=FakePainter(),
                 pools=PoolDirectory(settings.pools, dict, default_work(MODEL)),
                 routing=FakeRouting(), measurements=FakeMeasurements()))
heavy = {"torch", "diffusers", "transformers"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


SHIPPED = ["serve_config.yaml", "serve_config.emulated.yaml"]


@pytest.mark.parametrize("shipped", SHIPPED)
def test_the_shipped_config_is_consistent(shipped: str) -> None:
    config = yaml.safe_load((ROOT / shipped).read_text(encoding="utf-8"))
    (application,) = config["applications"]
    settings = Settings.parse(application["args"])
    policy = application["autoscaling_policy"]
    assert policy["policy_kwargs"]["pools"] == application["args"]["pools"]
    overrides = {entry["name"]: entry for entry in application["deployments"]}
    assert set(overrides) == {"Ingress", *settings.pools}
    LiveSettings.parse(overrides["Ingress"]["user_config"], settings)
    for name, pool in settings.pools.items():
        bounds = overrides[name]["autoscaling_config"]
        assert bounds["max_replicas"] == pool.max_replicas
        # A minimum on absent hardware would keep the application DEPLOYING.
        assert bounds["min_replicas"] == (0 if pool.resources.special else pool.min_replicas)


@pytest.mark.parametrize("shipped", SHIPPED)
def test_the_shipped_config_survives_a_round_trip_through_serves_schema(shipped: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load((ROOT / shipped).read_text(encoding="utf-8"))
    once = ServeDeploySchema.model_validate(config).model_dump(mode="json", exclude_unset=True)
    written = yaml.safe_load(yaml.safe_dump(once))
    again = ServeDeploySchema.model_validate(written).model_dump(mode="json", exclude_unset=True)
    assert once == again
    assert again["applications"][0]["args"] == config["applications"][0]["args"]
    policy = again["applications"][0]["autoscaling_policy"]
    assert (
        policy["policy_kwargs"] == config["applications"][0]["autoscaling_policy"]["policy_kwargs"]
    )


def test_every_emulated_pool_says_so() -> None:
    config = yaml.safe_load((ROOT / "serve_config.emulated.yaml").read_text(encoding="utf-8"))
    settings = Settings.parse(config["applications"][0]["args"])
    assert all(pool.label.endswith(" (emulated)") for pool in settings.pools.values())
    # The sample's pictures a minute, over the embedded model's eight steps.
    rates = {name: 60 / 8 / pool.emulation.step_s for name, pool in settings.pools.items()}  # type: ignore[union-attr]
    assert rates == pytest.approx(
        {"inf2": 105, "trn1": 130, "g5_compiled": 90, "g6": 61, "g5_eager": 60}, rel=0.001
    )


def test_availability_keeps_the_last_known(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [{"cpu": PoolState(ready=1)}, OSError("gone"), OSError("gone"), {}]

    def look() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    availability = Availability(look, 60)
    assert availability.age_s is None
    for _ in range(3):
        availability.poll()
        assert availability.states()["cpu"].ready == 1
    assert len([r for r in caplog.records if "gone" in r.message]) == 1
    availability.poll()
    assert availability.states() == {}
