"""Requests of several kinds, some of them bad, some of clients that leave."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

LEFT = "left"
_LEAVE_S = 0.1


@dataclass(frozen=True, slots=True)
class Kind:
    """One request.

    Attributes:
        body: of ``POST /imagine``.
        expected: the status that it deserves; ``None``: its client leaves.
    """

    body: dict[str, Any]
    expected: int | None = 200

    @property
    def plain(self) -> bool:
        """Whether its latency can be compared with others'."""
        body = self.body
        picture = self.expected == 200 and "image" not in body and "n" not in body
        return picture and body["guidance_scale"] == 1


def picture() -> str:
    """A small picture to start from, as base64."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def kind(index: int, start: str) -> Kind:
    """The ``index``-th request; ``start`` is a picture as base64."""
    body: dict[str, Any] = {
        "prompt": f"{index} blue squares",
        "seed": index,
        "num_inference_steps": 2,
        "guidance_scale": (1, 1, 1, 4)[index % 4],
        "scheduler": ("default", "euler", "dpmpp_2m")[index % 3],
    }
    match index % 10:
        case 0:
            return Kind(body | {"image": start, "strength": 0.8})
        case 1:
            return Kind(body | {"n": 2})
        case 2:
            return Kind(body | {"image": start[:-9]}, 400)
        case 3:
            return Kind(body | {f"unknown_{index}": 1}, 400)
        case 4:
            return Kind(body | {"num_inference_steps": 50, "n": 4}, None)
    return Kind(body)


def send(client: httpx.Client, one: Kind) -> str:
    """The status as text, or ``left``.

    Raises:
        httpx.TransportError: there was no answer.
    """
    if one.expected is None:
        try:
            return str(client.post("/imagine", json=one.body, timeout=_LEAVE_S).status_code)
        except httpx.ReadTimeout:
            return LEFT
    return str(client.post("/imagine", json=one.body).status_code)
