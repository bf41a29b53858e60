"""Stickiness by cookie, callers' keys, and what the answer tells of the routing."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from serve_app.live import LiveSettings
from serve_app.routing.router import Wishes
from tests.serve_app.conftest import Stand


def stick(stand: Stand, **stickiness: Any) -> None:
    stand.front.live = LiveSettings.parse(
        {"stickiness": {"duration_s": 60, **stickiness}}, stand.front.settings
    )


def paint(stand: Stand, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    response = stand.client.post("/imagine", json={"prompt": "a", **fields}, headers=headers)
    assert response.status_code == 200, response.text
    return response


def test_without_stickiness_there_is_no_cookie_and_none_is_read(stand: Stand) -> None:
    assert "set-cookie" not in paint(stand, {"Cookie": "imagine-pool=gpu"}).headers
    assert stand.painter.wishes == [Wishes()]


def test_the_pool_that_painted_is_kept_for_the_duration(stand: Stand) -> None:
    stick(stand)
    cookie = paint(stand).headers["set-cookie"]
    assert cookie.startswith("imagine-pool=cpu; ")
    assert "Max-Age=60" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    paint(stand)  # the client sends it back
    assert stand.painter.wishes == [Wishes(), Wishes(sticky="cpu")]


def test_a_client_that_was_moved_sticks_to_its_new_pool(stand: Stand) -> None:
    stick(stand, cookie="p")
    paint(stand, {"Cookie": "p=gpu"})
    assert stand.painter.wishes == [Wishes(sticky="gpu")]
    stand.painter.moved_to = "cpu"
    assert paint(stand, {"Cookie": "p=gpu"}).headers["set-cookie"].startswith("p=cpu; ")


@pytest.mark.parametrize("value", ["nope", "", "cpu,gpu", "../cpu"])
def test_a_cookie_that_names_no_pool_is_ignored(stand: Stand, value: str) -> None:
    stick(stand)
    paint(stand, {"Cookie": f"imagine-pool={value}"})
    assert stand.painter.wishes == [Wishes()]


def test_a_pinned_request_does_not_change_what_the_client_sticks_to(stand: Stand) -> None:
    stick(stand)
    assert "set-cookie" not in paint(stand, pool="gpu").headers
    assert stand.painter.wishes == [Wishes(pin="gpu")]


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Bearer sk-123", hashlib.sha256(b"sk-123").hexdigest()[:16]),
        ("bearer  sk-123 ", hashlib.sha256(b"sk-123").hexdigest()[:16]),
        ("Basic abc", ""),
        ("Bearer", ""),
        ("Bearer   ", ""),
    ],
)
def test_callers_are_told_apart_by_a_digest_of_their_key(
    stand: Stand, header: str, key: str
) -> None:
    paint(stand, {"Authorization": header})
    assert stand.painter.wishes == [Wishes(key=key)]


def test_the_answer_says_why_it_came_from_its_pool(stand: Stand) -> None:
    stand.painter.reason = "retry"
    assert paint(stand).headers["x-route-reason"] == "retry"
    answer = paint(stand, {"Accept": "application/json"}).json()
    assert answer["data"][0]["route_reason"] == "retry"
