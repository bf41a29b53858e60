"""The client side of a load: whatever happens to a request is an answer."""

from __future__ import annotations

import httpx
import pytest

from loadtest.outcome import TIMEOUT
from loadtest.service import LoadedService


def broken(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=b"no gzip")


def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def slow(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (broken, "connection: DecodingError"),
        (refused, "connection: ConnectError"),
        (slow, TIMEOUT),
        (lambda request: httpx.Response(502, text="a proxy's page"), "502"),
    ],
)
async def test_every_failure_is_an_answer(answer: object, error: str) -> None:
    transport = httpx.MockTransport(answer)  # type: ignore[arg-type]
    async with LoadedService("http://service", transport=transport) as service:
        assert (await service.paint({"prompt": "x"})).error == error


async def test_pools_are_asked_over_a_connection_of_their_own_where_it_matters() -> None:
    asked = []

    def pools(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["connection"])
        return httpx.Response(200, json={"pools": []})

    async with LoadedService("http://service", transport=httpx.MockTransport(pools)) as service:
        await service.pools()
        await service.pools(anew=True)
    assert asked == ["keep-alive", "close"]
