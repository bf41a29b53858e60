"""The events of ``/imagine``'s stream."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.messages import ImageEvent, ImagePreview, ImageRequest
from deployments.model_info import ModelInfo
from serve_app.api.answer import as_base64, json_body, model_label
from serve_app.api.events import EventStream, comment, event
from serve_app.api.front import Painter
from serve_app.api.painting import paint_all
from serve_app.routing.router import Wishes
from serve_app.routing.watching import Seen, Sent, Waiting


async def stream_pictures(
    painter: Painter,
    pictures: Sequence[ImageRequest],
    wishes: Wishes,
    model: ModelInfo,
    *,
    request_id: str,
    heartbeat_s: float,
) -> EventStream:
    """Paint, and tell of it: ``queued``, ``step``, ``preview``, at last ``done`` or ``error``.

    Raises:
        ApiError: it failed at once.
    """

    async def work(stream: EventStream) -> None:
        pools: dict[int, str] = {}  # where each picture is

        def watch(index: int, what: Seen) -> None:
            if isinstance(what, Waiting):
                # Not yet the beginning of the answer: the request may be refused.
                stream.hold(_queued(index, what.place, None))
            elif isinstance(what, Sent):
                pools[index] = what.pool.name
                _sent(stream, index, what)
            else:
                stream.send(_event(index, what, pools.get(index)))

        painted = await paint_all(painter, pictures, wishes, watch)
        stream.send(event("done", json_body(painted, model)))

    headers = {"X-Seed": str(pictures[0].seed), "X-Model": model_label(model)}
    return await EventStream(
        work, request_id=request_id, heartbeat_s=heartbeat_s, headers=headers
    ).open()


def _sent(stream: EventStream, index: int, what: Sent) -> None:
    if what.attempt > 1:
        stream.send(comment(f"picture {index} is painted again, by pool {what.pool.name}"))
    else:
        stream.hold(_queued(index, None, what.pool.name))  # the pool may refuse


def _queued(index: int, place: int | None, pool: str | None) -> bytes:
    return event("queued", {"index": index, "place": place, "pool": pool})


def _event(index: int, what: ImageEvent, pool: str | None) -> bytes:
    steps = {"step": what.step, "steps": what.steps}
    if isinstance(what, ImagePreview):
        picture = {"media_type": what.media_type, "b64_json": as_base64(what.image)}
        return event("preview", {"index": index, "preview": what.index, **steps, **picture})
    if what.place is not None:
        return _queued(index, what.place, pool)
    return event("step", {"index": index, **steps})
