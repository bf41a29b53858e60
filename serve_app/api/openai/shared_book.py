"""One ledger for all ingress replicas, in a process of its own. Nothing depends on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from serve_app.api.openai.ledger import HOLD_S, MOST_BYTES, MOST_CALLS, Answer, Found, Ledger
from serve_app.api.openai.ticket import Ticket
from serve_app.routing.outcome import Painted

log = logging.getLogger(__name__)

# Longest that a retry waits for word whether it is one.
ASK_S = 1.0
_TELL_S = 5.0
_PERIOD_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Begun:
    """A call is painted."""

    call: str
    ticket: Ticket
    seed: int

    def enter(self, ledger: Ledger, painter: str) -> None:
        """Into the ledger."""
        ledger.begin(painter, self.call, self.ticket, self.seed)


@dataclass(frozen=True, slots=True)
class Ended:
    """A call is painted no more."""

    call: str
    painted: list[Painted] | None

    def enter(self, ledger: Ledger, painter: str) -> None:
        """Into the ledger."""
        ledger.end(painter, self.call, self.painted)


@dataclass(frozen=True, slots=True)
class FailedEarly:
    """An attempt has ended before it was a call."""

    caller: str
    attempts: int

    def enter(self, ledger: Ledger, painter: str) -> None:
        """Into the ledger."""
        ledger.fail_early(self.caller, self.attempts)


Word = Begun | Ended | FailedEarly


class Desk(Protocol):
    """Where the shared ledger is asked; may fail or not answer. ``RayDesk`` is one."""

    async def claim(self, painter: str, call: str, ticket: Ticket, seed: int) -> Found | None:
        """See ``Ledger.claim``."""

    async def answer(self, painter: str, call: str) -> Answer:
        """See ``Ledger.answer``."""

    async def tell(self, painter: str, under_way: frozenset[str], words: Sequence[Word]) -> None:
        """All that ``painter`` paints, and what has happened, in order."""


class SharedBook:
    """An ingress replica's way to the shared ledger.

    What happens is told in order, from one task beside the requests, and again until it is heard;
    while something is painted also once a second, as a sign of life. A ledger that is gone, slow
    or out of reach costs a retry a second, and everything is painted.

    Args:
        desk: of the ledger.
        painter: this ingress replica's name.
    """

    def __init__(self, desk: Desk, painter: str) -> None:
        self._desk = desk
        self._painter = painter
        self._under_way: set[str] = set()
        self._words: list[Word] = []
        self._news = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None
        self._failing = False

    def announce(self, call: str, ticket: Ticket, seed: int) -> None:
        """See ``Book``."""
        self._under_way.add(call)
        self._say(Begun(call, ticket, seed))

    async def claim(self, call: str, ticket: Ticket, seed: int) -> Found | None:
        """See ``Book``."""
        self._under_way.add(call)  # before it is asked: see ``Ledger.reconcile``
        asked = self._desk.claim(self._painter, call, ticket, seed)
        try:
            found = await self._within(ASK_S, asked)
        except Exception as error:
            self._has_failed(error)
            found = None
        if found is None:
            self._tell_on()
        else:
            self._under_way.discard(call)
        return found

    async def answer(self, call: str) -> list[Painted] | None:
        """See ``Book``."""
        answer: Answer = "wait"
        while answer == "wait":
            asked = self._desk.answer(self._painter, call)
            try:
                answer = await self._within(HOLD_S + ASK_S, asked)
            except Exception as error:
                self._has_failed(error)
                answer = "yours"
        if isinstance(answer, list):
            return answer
        self._under_way.add(call)
        self._tell_on()
        return None

    def end(self, call: str, painted: list[Painted] | None) -> None:
        """See ``Book``."""
        self._under_way.discard(call)
        self._say(Ended(call, painted))

    def fail_early(self, caller: str, attempts: int) -> None:
        """See ``Book``."""
        self._say(FailedEarly(caller, attempts))

    def _say(self, word: Word) -> None:
        self._words.append(word)
        self._news.set()
        self._tell_on()

    def _tell_on(self) -> None:
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        while self._words or self._under_way:
            words, self._words = self._words, []
            self._news.clear()
            told = self._desk.tell(self._painter, frozenset(self._under_way), words)
            try:
                await self._within(_TELL_S, told)
            except Exception as error:
                self._has_failed(error)
                self._words = _within_bounds(words + self._words)
                await asyncio.sleep(_PERIOD_S)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _PERIOD_S)

    async def _within(self, limit_s: float, asked: Awaitable[T]) -> T:
        answer = await asyncio.wait_for(asked, limit_s)
        self._failing = False
        return answer

    def _has_failed(self, error: Exception) -> None:
        if not self._failing:
            why = "no answer" if isinstance(error, TimeoutError) else str(error).split("\n")[0]
            log.warning("retries are painted again, as the ledger is out of reach: %s", why)
        self._failing = True


def _within_bounds(words: list[Word]) -> list[Word]:
    """The newest of them."""
    kept, size = words[-MOST_CALLS:], 0
    for index in range(len(kept) - 1, -1, -1):
        word = kept[index]
        if isinstance(word, Ended):
            size += sum(len(one.result.image) for one in word.painted or ())
        if size > MOST_BYTES:
            return kept[index + 1 :]
    return kept
