"""A client's retry is not painted twice; what is another request is."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from serve_app.access.limits import CallerLimits
from serve_app.api import application
from serve_app.api.application import create_app
from serve_app.api.errors import ApiError
from serve_app.api.openai import ledger as module
from serve_app.api.openai.ledger import Ledger
from serve_app.api.openai.once import Once, OwnBook
from serve_app.api.openai.ticket import Ticket
from serve_app.routing.outcome import DispatchError, Painted
from serve_app.settings import Settings
from tests.serve_app.conftest import Stand, make_settings, snapshot
from tests.serve_app.test_bad_requests import check_error, png
from tests.serve_app.test_dispatcher import RESULT
from tests.serve_app.test_openai import GENERATIONS, edit, generate
from tests.serve_app.test_streaming import parse

PICTURE = Painted(result=RESULT, pool=snapshot("cpu"))


def seeds(*responses: Any) -> list[int]:
    for response in responses:
        assert response.status_code == 200, response.text
    return [response.json()["data"][0]["seed"] for response in responses]


def attempt(number: int, **more: str) -> dict[str, str]:
    return {"x-stainless-retry-count": str(number), **more}


def test_a_retry_gets_the_same_picture(stand: Stand) -> None:
    first, second, third = seeds(*(generate(stand, attempt(number)) for number in range(3)))
    assert first == second == third
    assert len(stand.painter.requests) == 1


def test_the_same_asked_again_is_another_picture(stand: Stand) -> None:
    assert len(set(seeds(*(generate(stand, attempt(0)) for _ in range(3))))) == 3
    assert len(set(seeds(*(generate(stand) for _ in range(2))))) == 2


def test_two_calls_that_look_alike_get_their_own_retries(stand: Stand) -> None:
    first = seeds(generate(stand, attempt(0)), generate(stand, attempt(0)))
    again = seeds(generate(stand, attempt(1)), generate(stand, attempt(1)))
    assert sorted(first) == sorted(again)
    assert len(stand.painter.requests) == 2
    # A retry of which nothing is known is painted.
    seeds(generate(stand, attempt(1)))
    assert len(stand.painter.requests) == 3


@pytest.mark.parametrize("more", [{"seed": 3}, {"n": 2}, {"prompt": "a"}, {"size": "96x64"}])
def test_other_contents_are_another_request(stand: Stand, more: dict[str, Any]) -> None:
    generate(stand, attempt(0))
    before = len(stand.painter.requests)
    generate(stand, attempt(1), **more)
    assert len(stand.painter.requests) > before


def test_callers_do_not_get_each_others_pictures(stand: Stand) -> None:
    generate(stand, attempt(0, authorization="Bearer one"))
    generate(stand, attempt(1, authorization="Bearer two"))
    generate(stand, {"idempotency-key": "k", "authorization": "Bearer one"})
    generate(stand, {"idempotency-key": "k", "authorization": "Bearer two"})
    assert len(stand.painter.requests) == 4


def refused(stand: Stand, headers: dict[str, str]) -> None:
    stand.painter.failure = DispatchError("overloaded", "full", retry_after_s=1)
    check_error(generate(stand, headers), 429, None)
    stand.painter.failure = None


@pytest.mark.parametrize("more", [{}, {"authorization": "Bearer one"}], ids=["anonymous", "keyed"])
def test_a_retry_after_a_failure_is_not_given_what_another_client_got(
    stand: Stand, more: dict[str, str]
) -> None:
    """Both ask the same, behind one address or with one key."""
    refused(stand, attempt(0, **more))
    (others,) = seeds(generate(stand, attempt(0, **more)))
    refused(stand, attempt(1, **more))
    (own,) = seeds(generate(stand, attempt(2, **more)))
    assert own != others
    # Each has its own picture again when the answer is lost.
    assert seeds(generate(stand, attempt(3, **more))) == [own]
    assert seeds(generate(stand, attempt(1, **more))) == [others]
    assert len(stand.painter.requests) == 4


KEYED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"anonymous": {"requests_per_minute": 60, "burst": 2}}, {}),
    (
        {
            "keys": {
                "a": {
                    "sha256": hashlib.sha256(b"im-a").hexdigest(),
                    "requests_per_minute": 60,
                    "burst": 2,
                }
            }
        },
        {"authorization": "Bearer im-a"},
    ),
]


@pytest.mark.parametrize(("access", "more"), KEYED, ids=["anonymous", "keyed"])
def test_an_attempt_that_the_gate_refused_has_failed_too(
    stand: Stand, access: dict[str, Any], more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(application, "CallerLimits", partial(CallerLimits, clock=lambda: now))
    stand.front.settings = Settings.parse({**make_settings().model_dump(), "access": access})
    with TestClient(create_app(stand.front)) as client:

        def ask(number: int) -> Any:
            headers = attempt(number, **more)
            return client.post(GENERATIONS, json={"prompt": "a"}, headers=headers)

        (others,) = seeds(ask(0))
        assert ask(1).json()["data"][0]["seed"] == others
        check_error(ask(1), 429, None)
        now = 5.0
        (own,) = seeds(ask(2))  # of the one that was refused
        assert own != others
        now = 10.0
        assert seeds(ask(3)) == [own]


@pytest.mark.parametrize("how", ["seed", "type"])
def test_an_attempt_that_does_not_come_again_leaves_nothing(stand: Stand, how: str) -> None:
    """Else each bad request would have a retry of another painted twice."""
    for _ in range(3):
        if how == "seed":
            check_error(generate(stand, attempt(0), seed=-1), 400, "seed")
        else:
            bad = stand.client.post(GENERATIONS, content="{", headers=attempt(0))
            check_error(bad, 415, None)
    first, again = seeds(generate(stand, attempt(0)), generate(stand, attempt(1)))
    assert first == again


def test_unchecked_callers_are_told_apart_by_their_address(stand: Stand) -> None:
    app = create_app(stand.front)
    found = []
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        with TestClient(app, client=(address, 1)) as client:
            for headers in (attempt(len(found) // 2), {"idempotency-key": "k"}):
                answer = client.post(GENERATIONS, json={"prompt": "a"}, headers=headers)
                found += seeds(answer)
    assert len(stand.painter.requests) == 5
    assert found[1] == found[5] != found[3]


def test_an_edit_is_known_by_its_picture_too(stand: Stand) -> None:
    image = png()
    one, two = seeds(*(edit(stand, image, headers=attempt(number)) for number in range(2)))
    assert one == two
    edit(stand, png(80, 80), headers=attempt(1))
    assert len(stand.painter.requests) == 2


def test_a_failure_is_tried_again(stand: Stand) -> None:
    stand.painter.failure = DispatchError("overloaded", "full", retry_after_s=1)
    check_error(generate(stand, attempt(0)), 429, None)
    stand.painter.failure = None
    seeds(generate(stand, attempt(1)))
    assert len(stand.painter.requests) == 2


def test_a_key_names_a_call(stand: Stand) -> None:
    key = {"idempotency-key": "mine"}
    one, two = seeds(generate(stand, key), generate(stand, key))
    assert one == two
    response = generate(stand, key, seed=1)
    check_error(response, 400, "Idempotency-Key", "other contents")
    assert response.headers["x-should-retry"] == "false"
    assert len(stand.painter.requests) == 1


def test_a_key_draws_the_same_seed_in_every_ingress_replica(stand: Stand) -> None:
    key = {"idempotency-key": "mine"}
    (one,) = seeds(generate(stand, key))
    with TestClient(create_app(stand.front)) as other:
        headers = {**key, "x-stainless-retry-count": "1"}
        answer = other.post(GENERATIONS, json={"prompt": "a red circle"}, headers=headers)
        assert seeds(answer) == [one]
        assert len(stand.painter.requests) == 2
        another = other.post(
            GENERATIONS, json={"prompt": "a red circle"}, headers={"idempotency-key": "other"}
        )
    assert seeds(another) != [one]
    # A seed that is given is the one that is used.
    assert seeds(generate(stand, {"idempotency-key": "third"}, seed=5)) == [5]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_bad_key(stand: Stand, key: str) -> None:
    response = generate(stand, {"idempotency-key": key})
    check_error(response, 400, "Idempotency-Key", "1 to 255")


@pytest.mark.parametrize("count", ["", "-1", "one", "1" * 99, "٣".encode().decode("latin-1")])
def test_a_number_that_is_none_is_no_attempt(stand: Stand, count: str) -> None:
    for _ in range(2):
        headers: Any = {b"x-stainless-retry-count": count.encode("latin-1")}
        assert generate(stand, headers).status_code == 200
    assert len(stand.painter.requests) == 2


def test_a_stream_that_is_retried_ends_with_the_same_picture(stand: Stand) -> None:
    answers = [generate(stand, attempt(number), stream=True) for number in range(2)]
    plain, again = (answer.text for answer in answers)
    assert plain.split('"created_at"')[0] == again.split('"created_at"')[0]
    assert len(stand.painter.requests) == 1
    for answer in answers:  # what the header says is what the picture has
        (name, data) = parse(answer.text)[0][-1]
        assert name == "image_generation.completed"
        assert answer.headers["x-seed"] == str(data["seed"])


def ticket(number: int | None = 0, name: str = "a") -> Ticket:
    """Named by contents, or (without a number) by a key."""
    return Ticket("caller", "asked", name, number) if number is not None else KEY


KEY = Ticket("caller", "key a", "digest", None)


def known(ledger: Ledger) -> list[Any]:
    return [*ledger._open.values(), *ledger._done.values()]


class Studio:
    """Paints when told; knows what became of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.ledger = Ledger(clock=clock)
        self.once = Once(OwnBook(self.ledger))
        self.begun = self.left = 0
        self.done = asyncio.Event()

    async def paint(self, seed: int) -> list[Painted]:
        self.begun += 1
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        return [PICTURE]

    def call(self, given: Ticket | None) -> asyncio.Task[list[Painted]]:
        return asyncio.create_task(self.once.paint(given, 0, self.paint))


async def test_a_retry_joins_what_is_under_way() -> None:
    studio = Studio()
    first = studio.call(ticket(0))
    await asyncio.sleep(0)
    second = studio.call(ticket(1))
    await asyncio.sleep(0.01)
    studio.done.set()
    assert await first is await second
    assert studio.begun == 1


async def test_a_painting_ends_when_the_last_has_left() -> None:
    studio = Studio()
    first, second = studio.call(ticket(0)), None
    await asyncio.sleep(0.01)
    second = studio.call(ticket(1))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    assert studio.left == 0
    second.cancel()
    await asyncio.sleep(0.01)
    assert studio.left == 1
    studio.call(ticket(2))
    await asyncio.sleep(0.01)
    assert studio.begun == 2
    studio.done.set()


async def test_without_a_ticket_nothing_is_kept() -> None:
    studio = Studio()
    studio.done.set()
    await studio.call(None)
    assert (len(known(studio.ledger)), studio.ledger._bytes) == (0, 0)
    assert not studio.once._paintings


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    studio = Studio(lambda: now)
    studio.done.set()
    monkeypatch.setattr(module, "MOST_BYTES", 10)  # a picture has 3
    monkeypatch.setattr(module, "MOST_CALLS", 50)
    for index in range(200):
        await studio.call(ticket(0, str(index)))
        assert studio.ledger._bytes <= 10 + 3
        assert len(known(studio.ledger)) <= 50
    assert [call.ticket.digest for call in known(studio.ledger)][-1] == "199"
    begun = studio.begun
    await studio.call(ticket(1, "199"))
    assert studio.begun == begun
    now = module.KEPT_S + 1
    await studio.call(ticket(2, "199"))
    assert studio.begun == begun + 1
    monkeypatch.setattr(module, "MOST_BYTES", 10**9)
    for index in range(200):
        await studio.call(ticket(0, f"more {index}"))
        assert len(known(studio.ledger)) <= 50


async def test_failures_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    ledger = Ledger(clock=lambda: now)
    once = Once(OwnBook(ledger))
    monkeypatch.setattr(module, "MOST_FAILED", 10)

    async def fail(seed: int) -> list[Painted]:
        raise DispatchError("overloaded", "full")

    for index in range(50):
        now = float(index)
        with pytest.raises(DispatchError):
            await once.paint(ticket(0, str(index)), 0, fail)
    assert len(ledger._failed) == 10
    assert not known(ledger)
    assert not once._paintings

    async def paint(seed: int) -> list[Painted]:
        return [PICTURE]

    now = module.KEPT_S + 45
    await once.paint(ticket(0, "new"), 0, paint)
    assert len(ledger._failed) == 5


async def test_a_client_that_left_is_painted_its_own() -> None:
    """Another's picture of the same contents is there when it comes again."""
    studio = Studio()
    leaver = studio.call(ticket(0))
    await asyncio.sleep(0.01)
    leaver.cancel()
    await asyncio.sleep(0.01)
    studio.done.set()
    await studio.call(ticket(0))
    await studio.call(ticket(1))
    assert studio.begun == 3
    await studio.call(ticket(1))
    assert studio.begun == 3


async def test_a_key_of_a_call_under_way_is_checked_too() -> None:
    studio = Studio()
    first = studio.call(ticket(None))
    await asyncio.sleep(0.01)
    with pytest.raises(ApiError, match="other contents"):
        await studio.once.paint(replace(KEY, digest="other"), 0, studio.paint)
    studio.done.set()
    assert await first


def test_a_secret_is_not_part_of_a_ticket() -> None:
    headers = [(b"authorization", b"Bearer secret"), (b"idempotency-key", b"k")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1",
        "headers": headers,
        "query_string": b"",
        "server": ("a", 1),
        "scheme": "http",
    }
    assert "secret" not in str(Ticket.of(Request(scope), {"prompt": "a"}))
