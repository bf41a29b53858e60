"""The service under load, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from loadtest.outcome import TIMEOUT, Answer

Body = Mapping[str, Any]

PROMPT = "a red circle on a blue background"
_PAINTING = ("encode", "denoise", "decode")


class Unreachable(Exception):  # noqa: N818 - says what is the matter
    """The service does not answer, or is none of ours; the message is for people."""


class LoadedService:
    """As many connections to a service as requests are under way.

    Args:
        url: e.g. ``http://127.0.0.1:8000``.
        key: API key, if one is needed.
        timeout_s: seconds after which a request counts as failed.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            transport=transport,
        )

    async def __aenter__(self) -> LoadedService:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def paint(self, body: Body) -> Answer:
        """Ask for a picture and take it in whole; a failure is an answer too."""
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.post("/imagine", json=dict(body))
        except (TimeoutError, httpx.TimeoutException):
            return Answer(error=TIMEOUT)
        except httpx.RequestError as error:  # also an answer that cannot be decoded
            return Answer(error=f"connection: {type(error).__name__}")
        if response.status_code != 200:
            return Answer(error=f"{response.status_code} {_code(response)}".rstrip())
        headers = response.headers
        return Answer(headers.get("x-pool", "?"), "", painting_s(headers.get("server-timing", "")))

    async def pools(self, *, anew: bool = False) -> dict[str, Any]:
        """What ``/pools`` shows.

        Args:
            anew: over a connection that nothing else is asked on after, so that the next goes
                wherever the next connection leads.

        Raises:
            Unreachable: it does not answer, or answers something else.
        """
        shown = await self._get("/pools", {"Connection": "close"} if anew else {})
        if not isinstance(shown.get("pools"), list):
            raise Unreachable(f"{self.url}/pools shows no pools; is it this service?")
        return shown

    async def default_steps(self) -> int | None:
        """Denoising steps of a request that names none, from the API's description."""
        try:
            shown = await self._get("/openapi.json")
            fields = shown["components"]["schemas"]["ImagineRequest"]["properties"]
            return int(fields["num_inference_steps"]["default"])
        except (Unreachable, KeyError, TypeError, ValueError):
            return None

    async def _get(self, path: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        try:
            response = await self._client.get(path, timeout=10, headers=headers)
            response.raise_for_status()
            shown = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(f"{self.url}{path}: {type(error).__name__}: {error}") from error
        if not isinstance(shown, dict):
            raise Unreachable(f"{self.url}{path}: expected a JSON object")
        return shown


def painting_s(server_timing: str) -> float | None:
    """Seconds in the batch, from ``queue;dur=1.2, encode;dur=3.4, ...`` in milliseconds."""
    parts = (part.strip().partition(";dur=") for part in server_timing.split(","))
    try:
        times = {name: float(value) for name, _, value in parts}
        return sum(times[phase] for phase in _PAINTING) / 1000
    except (KeyError, ValueError):
        return None  # another server, or a proxy that drops the header


def _code(response: httpx.Response) -> str:
    """The error's word in the common envelope; ``""`` from something else, say a proxy."""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""
