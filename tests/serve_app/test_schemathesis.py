"""Thousands of requests drawn from the OpenAPI document, good and bad: nothing undocumented."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, get_args

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import ASGIApp

from serve_app.api.application import create_app
from serve_app.api.front import Front, default_work
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.outcome import DispatchCode, DispatchError
from serve_app.routing.snapshot import PoolState
from serve_app.settings import Settings
from tests.serve_app.conftest import (
    MODEL,
    FakeMeasurements,
    FakePainter,
    FakeRouting,
    make_settings,
)

STATES = {"cpu": PoolState(ready=1, status="HEALTHY"), "gpu": PoolState(status="HEALTHY")}
KEYS = ("im-a", "im-b")


# Every way in which a request can fail in the service, and none.
FAILURES: tuple[Exception | None, ...] = (
    None,
    RuntimeError("inside"),
    *(DispatchError(code, "told", retry_after_s=5) for code in get_args(DispatchCode)),
)
PAINTER = FakePainter()


def make_app(settings: Settings, painter: FakePainter) -> ASGIApp:
    return create_app(
        Front(
            settings=settings,
            model=MODEL,
            pools=PoolDirectory(settings.pools, lambda: STATES, default_work(MODEL)),
            painter=painter,
            routing=FakeRouting(),
            measurements=FakeMeasurements(),
        )
    )


def with_keys() -> Settings:
    """One key may ask as often as it likes, the other hardly at all."""
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in KEYS]
    keys = {
        "a": {"sha256": digests[0]},
        "b": {"sha256": digests[1], "requests_per_minute": 1, "burst": 1},
    }
    return Settings.parse({**make_settings().model_dump(), "access": {"keys": keys}})


SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", make_app(make_settings(), FakePainter()))
GUARDED = schemathesis.openapi.from_asgi("/openapi.json", make_app(with_keys(), PAINTER))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SEEN: Counter[tuple[str, int]] = Counter()


@SCHEMA.parametrize()
@settings(
    max_examples=350,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_documented(case: Any) -> None:
    response = case.call()
    SEEN[case.operation.label, response.status_code] += 1
    case.validate_response(response, checks=CHECKS)


TROUBLE: Counter[tuple[str, int]] = Counter()
PAINTING = ("POST /imagine", "POST /v1/images/generations", "POST /v1/images/edits")


@GUARDED.include(path_regex="^/(imagine|v1/)", method="POST").parametrize()
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_trouble_is_documented_too(case: Any) -> None:
    """Keys that are good, used up, wrong or missing; what is valid fails in every way in turn."""

    def ask(key: str | None, failure: Exception | None) -> int:
        PAINTER.failure = failure
        PAINTER.requests.clear()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        response = case.call(headers=headers)
        TROUBLE[case.operation.label, response.status_code] += 1
        case.validate_response(response, checks=CHECKS[1:])
        return int(response.status_code)

    ask((*KEYS[1:], "im-wrong", None)[TROUBLE.total() % 3], None)
    for failure in FAILURES:
        if ask(KEYS[0], failure) != 200 and failure is None:
            break  # not valid


def test_there_was_trouble_of_every_kind() -> None:
    for label in PAINTING:
        statuses = {status for operation, status in TROUBLE if operation == label}
        assert {200, 400, 401, 429, 500, 503, 504} <= statuses, (label, statuses)


def test_there_were_thousands_good_and_bad() -> None:
    assert SEEN.total() > 2000
    for label in PAINTING:
        statuses = {status for operation, status in SEEN if operation == label}
        assert {200, 400, 415} <= statuses, (label, statuses)
