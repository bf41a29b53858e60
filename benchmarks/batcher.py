"""Static batching by hand: collect what is alike, run it to its end, then the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")


class Batcher(Generic[Ask, Answer]):
    """Takes the oldest and all that are of its kind from the whole queue, up to ``most``.

    Args:
        run: answers a batch of one kind; called in a thread.
        kind: what the members of a batch have in common.
        most: requests in a batch.
        collect_s: seconds to wait for company while there are fewer.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Ask]], Sequence[Answer]],
        kind: Callable[[Ask], Hashable],
        most: int,
        collect_s: float,
    ) -> None:
        self._run, self._kind, self._most, self._collect_s = run, kind, most, collect_s
        self._pool = ThreadPoolExecutor(1)
        self._queue: deque[tuple[Ask, asyncio.Future[Answer]]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, request: Ask) -> Answer:
        """Wait for the batch this request rides in."""
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((request, future))
        self._wake.set()
        return await future

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            if len(self._queue) < self._most:
                await asyncio.sleep(self._collect_s)
            first = self._kind(self._queue[0][0])
            taken = [e for e in self._queue if self._kind(e[0]) == first][: self._most]
            self._queue = deque(e for e in self._queue if e not in taken)
            if not self._queue:
                self._wake.clear()
            try:
                answers = await loop.run_in_executor(self._pool, self._run, [r for r, _ in taken])
            except Exception as error:  # told to those who wait
                for _, future in taken:
                    future.set_exception(error)
                continue
            for (_, future), answer in zip(taken, answers, strict=True):
                future.set_result(answer)
