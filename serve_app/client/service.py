"""Asking a running service for pictures."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from serve_app.client.events import read_events

# The picture may wait for hardware to come up; connecting must not take long.
_TIMEOUT = httpx.Timeout(600, connect=5)


class ServiceError(Exception):
    """The service did not paint; the message is for people."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture and where it came from."""

    image: bytes
    seed: int
    pool: str
    accelerator: str


@dataclass(frozen=True, slots=True)
class Watcher:
    """Told what happens until the pictures are done.

    Attributes:
        queued: place in the queue, when known.
        step: picture's index, steps taken, steps in all.
        preview: picture's index, encoded bytes.
    """

    queued: Callable[[int | None], None]
    step: Callable[[int, int, int], None]
    preview: Callable[[int, bytes], None]


class Service:
    """A service at an address.

    Args:
        url: e.g. ``http://127.0.0.1:8000``.
        key: API key, if one is needed.
        transport: for tests.
    """

    def __init__(
        self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url
        self._client = httpx.Client(
            base_url=url, headers=headers, timeout=_TIMEOUT, transport=transport
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *how: object) -> None:
        self._client.close()

    def paint(
        self, fields: Mapping[str, Any], watcher: Watcher, *, previews: int = 0
    ) -> list[Picture]:
        """Get pictures for the fields of ``/imagine``; watched, if the service can be.

        Raises:
            ServiceError: it refused, failed, or cannot be reached.
        """
        streaming = {"stream": True} | ({"partial_images": previews} if previews else {})
        try:
            found = self._stream({**fields, **streaming}, watcher)
            return self._plain(fields) if found is None else found
        except httpx.HTTPError as error:
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ServiceError(f"{self._url} does not answer: {why}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(f"{self._url} answers what is no picture: {error!r}") from error

    def _stream(self, fields: Mapping[str, Any], watcher: Watcher) -> list[Picture] | None:
        """The pictures; ``None`` from a service that knows no streams."""
        asked = self._client.stream("POST", "/imagine", json=dict(fields))
        with asked as response:
            if response.status_code != 200:
                response.read()
                error = _error_of(response)
                if error.get("code") == "unknown_field" and error.get("param") in fields:
                    return None
                raise ServiceError(_explain(response, error))
            for event in read_events(response.iter_lines()):
                data = event.data
                if event.name == "queued":
                    watcher.queued(data.get("place"))
                elif event.name == "step":
                    watcher.step(data["index"], data["step"], data["steps"])
                elif event.name == "preview":
                    watcher.preview(data["index"], _decoded(data["b64_json"]))
                elif event.name == "done":
                    return _pictures(data)
                elif event.name == "error":
                    raise ServiceError(str(data["error"]["message"]))
        raise ServiceError("the connection broke off before the picture was done")

    def _plain(self, fields: Mapping[str, Any]) -> list[Picture]:
        accept = {"Accept": "application/json"}
        response = self._client.post("/imagine", json=dict(fields), headers=accept)
        if response.status_code != 200:
            raise ServiceError(_explain(response, _error_of(response)))
        return _pictures(response.json())


def _pictures(answer: Mapping[str, Any]) -> list[Picture]:
    return [
        Picture(_decoded(one["b64_json"]), one["seed"], one["pool"], one["accelerator"])
        for one in answer["data"]
    ]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"bad base64: {error}") from error


def _error_of(response: httpx.Response) -> dict[str, Any]:
    """The envelope's error; ``{}`` from something that is not our service."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _explain(response: httpx.Response, error: Mapping[str, Any]) -> str:
    text = str(error.get("message") or f"HTTP {response.status_code}")
    wait = response.headers.get("retry-after")
    return f"{text} (try again in {wait} s)" if wait else text
