"""Pictures in the shapes that OpenAI's clients know."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from deployments.messages import ImagePreview
from serve_app.api.answer import as_base64
from serve_app.api.events import EventStream, comment, event
from serve_app.api.order import Order
from serve_app.routing.outcome import Painted
from serve_app.routing.watching import Seen, Sent, Waiting

# Required by the clients' types. Nothing is counted in tokens here.
_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


def images_body(painted: Sequence[Painted], order: Order) -> dict[str, Any]:
    """The answer; what is known of each picture beyond that API is there too."""
    return {
        "created": int(time.time()),
        "data": [{"b64_json": as_base64(one.result.image), **_about(one)} for one in painted],
        "background": "opaque",
        "output_format": order.pictures[0].output_format,
        "size": _size(order),
        "usage": _USAGE,
    }


class ImageEvents:
    """Tells a stream of one picture; steps and the like are comments.

    The clients take every event of a name they do not know for a partial picture.

    Args:
        stream: is told.
        kind: ``image_generation`` or ``image_edit``.
        order: what is painted.
    """

    def __init__(self, stream: EventStream, kind: str, order: Order) -> None:
        self._stream = stream
        self._kind = kind
        self._order = order
        self._shown = 0

    def watch(self, _index: int, what: Seen) -> None:
        """Something has happened."""
        if isinstance(what, Waiting):
            waits = "waiting" if what.place is None else f"place {what.place} in the queue"
            self._stream.hold(comment(waits))  # it may be refused
        elif isinstance(what, Sent):
            if what.attempt > 1:
                self._stream.send(comment(f"painted again, by pool {what.pool.name}"))
        elif isinstance(what, ImagePreview):
            # A picture begun anew shows again what was shown.
            if what.index >= self._shown:
                self._shown = what.index + 1
                more = {"partial_image_index": what.index}
                self._send("partial_image", as_base64(what.image), more)
        elif what.place is not None:
            self._stream.send(comment(f"place {what.place} in the queue"))
        else:
            self._stream.send(comment(f"step {what.step}/{what.steps}"))

    def completed(self, painted: Painted) -> None:
        """The picture is there."""
        more = {"usage": _USAGE, **_about(painted)}
        self._send("completed", as_base64(painted.result.image), more)

    def _send(self, what: str, image: str, more: dict[str, Any]) -> None:
        name = f"{self._kind}.{what}"
        body = {
            "type": name,
            "b64_json": image,
            "created_at": int(time.time()),
            "size": _size(self._order),
            "quality": "auto",
            "background": "opaque",
            "output_format": self._order.pictures[0].output_format,
            **more,
        }
        self._stream.send(event(name, body))


def _about(painted: Painted) -> dict[str, Any]:
    return {
        "seed": painted.result.seed,
        "pool": painted.pool.name,
        "accelerator": painted.pool.accelerator,
        "prompt_truncated": painted.result.truncated,
        "unknown_words": list(painted.result.unknown_words),
    }


def _size(order: Order) -> str:
    return f"{order.pictures[0].width}x{order.pictures[0].height}"
