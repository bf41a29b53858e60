"""The shared ledger as a Ray actor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serve_app.api.openai.ledger import KEPT_S, SILENT_S, Answer, Found, Ledger
from serve_app.api.openai.shared_book import Word
from serve_app.api.openai.ticket import Ticket

_NAMESPACE = "imagine"
# Goes up with any change of what is sent: during an upgrade old and new ingress replicas run.
_VERSION = 1
_MOST_AT_ONCE = 10_000


class LedgerActor:
    """Holds one application's ledger.

    It outlives the ingress replica that started it, and ends by itself when nobody has told it
    anything for as long as anything is kept.
    """

    def __init__(self) -> None:
        self._ledger = Ledger(silent_s=SILENT_S)
        self._asked = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None

    async def claim(self, painter: str, call: str, ticket: Ticket, seed: int) -> Found | None:
        """See ``Ledger.claim``."""
        self._stay()
        return self._ledger.claim(painter, call, ticket, seed)

    async def answer(self, painter: str, call: str) -> Answer:
        """See ``Ledger.answer``."""
        self._stay()
        return await self._ledger.answer(painter, call)

    async def tell(self, painter: str, under_way: frozenset[str], words: Sequence[Word]) -> None:
        """See ``Desk.tell``."""
        self._stay()
        for word in words:
            word.enter(self._ledger, painter)
        self._ledger.reconcile(painter, under_way)

    def _stay(self) -> None:
        self._asked.set()
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        import ray

        with contextlib.suppress(TimeoutError):
            while True:
                self._asked.clear()
                await asyncio.wait_for(self._asked.wait(), KEPT_S)
        ray.kill(ray.get_runtime_context().current_actor)


class RayDesk:
    """Asks the actor, which is started at once if there is none.

    Args:
        start: finds or starts it; may block.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._actor = self._thread.submit(start)

    async def claim(self, painter: str, call: str, ticket: Ticket, seed: int) -> Found | None:
        """See ``Desk``."""
        found: Found | None = await self._ask("claim", painter, call, ticket, seed)
        return found

    async def answer(self, painter: str, call: str) -> Answer:
        """See ``Desk``."""
        answer: Answer = await self._ask("answer", painter, call)
        return answer

    async def tell(self, painter: str, under_way: frozenset[str], words: Sequence[Word]) -> None:
        """See ``Desk``."""
        await self._ask("tell", painter, under_way, words)

    async def _ask(self, method: str, *args: Any) -> Any:
        from ray.exceptions import RayActorError

        for last in (False, True):
            asked, actor = self._actor, None
            try:
                actor = await asyncio.shield(asyncio.wrap_future(asked))
                return await getattr(actor, method).remote(*args)
            except Exception as error:
                gone = isinstance(error, RayActorError)
                if (gone or actor is None) and self._actor is asked:
                    self._actor = self._thread.submit(self._start)
                if last or not gone:
                    raise
        raise AssertionError("not reached")


def start_actor(app_name: str) -> Any:
    """The application's ledger, on the node of who asks first: an ingress' node, which stays."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(LedgerActor)
        .options(
            name=f"ledger-{_VERSION}-{app_name}",
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=_MOST_AT_ONCE,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
        )
        .remote()
    )
