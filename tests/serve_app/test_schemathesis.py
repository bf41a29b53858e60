"""Thousands of requests drawn from the OpenAPI document, good and bad: nothing undocumented."""

from __future__ import annotations

from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve_app.api.application import create_app
from serve_app.api.front import Front, default_work
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.snapshot import PoolState
from tests.serve_app.conftest import (
    MODEL,
    FakeMeasurements,
    FakePainter,
    FakeRouting,
    make_settings,
)

SETTINGS = make_settings()
STATES = {"cpu": PoolState(ready=1, status="HEALTHY"), "gpu": PoolState(status="HEALTHY")}
APP = create_app(
    Front(
        settings=SETTINGS,
        model=MODEL,
        pools=PoolDirectory(SETTINGS.pools, lambda: STATES, default_work(MODEL)),
        painter=FakePainter(),
        routing=FakeRouting(),
        measurements=FakeMeasurements(),
    )
)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
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


def test_there_were_thousands_good_and_bad() -> None:
    assert SEEN.total() > 2000
    for label in ("POST /imagine", "POST /v1/images/generations", "POST /v1/images/edits"):
        statuses = {status for operation, status in SEEN if operation == label}
        assert {200, 400, 415} <= statuses, (label, statuses)
