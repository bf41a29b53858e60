"""Getting the pictures of one call painted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from deployments.messages import ImageRequest
from serve_app.api.front import Painter
from serve_app.routing.outcome import Painted
from serve_app.routing.router import Wishes
from serve_app.routing.watching import Seen, Watch

# Told the picture's number, from 0, and what has happened to it.
WatchAll = Callable[[int, Seen], None]


async def paint_all(
    painter: Painter,
    pictures: Sequence[ImageRequest],
    wishes: Wishes,
    watch: WatchAll | None = None,
) -> list[Painted]:
    """Paint all ``pictures`` at once; when one fails or the caller goes, none is left running.

    Raises:
        DispatchError: that of the first picture to fail.
    """
    if len(pictures) == 1:
        return [await painter.paint(pictures[0], wishes, _watch(watch, 0))]
    tasks = [
        asyncio.ensure_future(painter.paint(picture, wishes, _watch(watch, index)))
        for index, picture in enumerate(pictures)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _watch(watch: WatchAll | None, index: int) -> Watch | None:
    return None if watch is None else lambda event: watch(index, event)
