"""Which calls are under way or were answered of late, and which have failed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Literal

from serve_app.api.openai.ticket import Ticket
from serve_app.routing.outcome import Painted

KEPT_S = 600.0
MOST_BYTES = 32 * 2**20
MOST_CALLS = 10_000
MOST_FAILED = 10_000
# A painter of which nothing has been heard for so long is gone.
SILENT_S = 5.0
# Longest that one question after an answer stays open.
HOLD_S = 2.0

# The pictures; or to ask again, as they are being painted; or to paint them oneself.
Answer = list[Painted] | Literal["wait", "yours"]


@dataclass(frozen=True, slots=True)
class Found:
    """An earlier call.

    Attributes:
        call: its name.
        seed: of its first picture.
        digest: of what it asks.
    """

    call: str
    seed: int
    digest: str


@dataclass(slots=True, eq=False)
class _Call:
    """One painting, whoever waits for it; ``painter`` is ``None`` once it has failed."""

    ticket: Ticket
    seed: int
    painter: str | None
    began: float
    attempts: int
    shared: bool = False  # whether another than its painter asks for it
    painted: list[Painted] | None = None
    done_at: float = 0.0
    size: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Failed:
    """Calls that have failed, of one kind: when of late, and how many have not come again."""

    at: float
    count: int = 0


@dataclass(slots=True)
class Ledger:
    """Knows calls again; paints nothing.

    A call with a key is the one with the same key. Without one, a client's attempt k is a call
    that has the same contents and had k attempts before; but as many attempts as have failed
    before are new calls first, since it may be theirs: two clients that ask the same must not get
    one picture. Only successes are kept, for ten minutes and within 32 MB.

    Attributes:
        clock: monotonic seconds.
        silent_s: see ``SILENT_S``; infinite where painters do not report.
    """

    clock: Callable[[], float] = time.monotonic
    silent_s: float = math.inf
    # In the order of their beginning, and of their end.
    _open: OrderedDict[str, _Call] = field(default_factory=OrderedDict)
    _done: OrderedDict[str, _Call] = field(default_factory=OrderedDict)
    _alike: dict[tuple[str, str, str], dict[str, _Call]] = field(default_factory=dict)
    # By caller, contents (None: not known) and attempts had.
    _failed: OrderedDict[tuple[str, str | None, int], _Failed] = field(default_factory=OrderedDict)
    _heard: dict[str, float] = field(default_factory=dict)
    _bytes: int = 0

    def begin(self, painter: str, call: str, ticket: Ticket, seed: int) -> None:
        """``painter`` paints a new call, named ``call``."""
        self.hear(painter)
        if call in self._open or call in self._done:
            return
        self._forget()
        attempts = 1 if ticket.attempt is None else ticket.attempt + 1
        begun = _Call(ticket, seed, painter, self.clock(), attempts)
        self._open[call] = self._alike.setdefault(ticket.kind, {})[call] = begun

    def claim(self, painter: str, call: str, ticket: Ticket, seed: int) -> Found | None:
        """The earlier call that this one is; if there is none, it begins as ``call``."""
        self.hear(painter)
        self._forget()
        found = self._find(ticket)
        if found is None:
            self.begin(painter, call, ticket, seed)
            return None
        name, earlier = found
        if earlier.ticket.digest == ticket.digest:
            earlier.shared |= earlier.painter != painter
            if ticket.attempt is not None:
                earlier.attempts = ticket.attempt + 1
        return Found(name, earlier.seed, earlier.ticket.digest)

    async def answer(self, painter: str, call: str) -> Answer:
        """What became of an earlier call; waits a little for its end.

        Of those that ask for a call whose painter has failed or is gone, the first becomes its
        painter.
        """
        self.hear(painter)
        for last in (False, True):
            if call in self._done:
                return self._done[call].painted or "yours"
            earlier = self._open.get(call)
            if earlier is None:
                return "yours"
            if earlier.painter is None or self._silent_s(earlier) > self.silent_s:
                self._take_over(earlier, painter)
                return "yours"
            if not last:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(earlier.ended.wait(), HOLD_S)
        return "wait"

    def end(self, painter: str, call: str, painted: list[Painted] | None) -> None:
        """``painter`` has painted ``call``; or (``None``) has not and does not any more."""
        self.hear(painter)
        ended = self._open.get(call)
        if ended is None or ended.painter != painter:
            return
        ended.ended.set()
        if painted is None:
            if ended.ticket.attempt is not None:
                self._has_failed(ended.ticket.caller, ended.ticket.digest, ended.attempts)
            ended.painter = None
            if not ended.shared:
                self._drop(call)
            return
        ended.painted, ended.done_at = painted, self.clock()
        ended.size = sum(len(one.result.image) for one in painted)
        self._bytes += ended.size
        self._done[call] = self._open.pop(call)
        self._forget()

    def fail_early(self, caller: str, attempts: int) -> None:
        """An attempt of ``caller`` has failed before it was known what it asks for.

        The caller's next attempt of that number is then a new call, whatever it asks for.
        """
        self._has_failed(caller, None, attempts)

    def reconcile(self, painter: str, under_way: Set[str]) -> None:
        """``painter`` has no other calls than these: of others, word was lost."""
        self.hear(painter)
        now = self.clock()
        self._heard = {who: at for who, at in self._heard.items() if now - at <= KEPT_S}
        for name, call in list(self._open.items()):
            if call.painter == painter and name not in under_way and now - call.began > SILENT_S:
                self.end(painter, name, None)

    def hear(self, painter: str) -> None:
        """``painter`` is alive."""
        self._heard[painter] = self.clock()

    def _silent_s(self, call: _Call) -> float:
        heard = call.began if call.painter is None else self._heard.get(call.painter, call.began)
        return self.clock() - heard

    def _take_over(self, call: _Call, painter: str) -> None:
        if call.painter is None and call.ticket.attempt is not None:
            self._use_up((call.ticket.caller, call.ticket.digest, call.attempts))
        call.painter, call.began, call.ended = painter, self.clock(), asyncio.Event()

    def _find(self, ticket: Ticket) -> tuple[str, _Call] | None:
        if ticket.attempt is not None and (
            ticket.attempt == 0
            # It may be a call whose attempt before has failed; one such is then used up.
            or self._use_up((ticket.caller, ticket.digest, ticket.attempt))
            or self._use_up((ticket.caller, None, ticket.attempt))
        ):
            return None
        for name, call in self._alike.get(ticket.kind, {}).items():
            if call.painter is not None and ticket.attempt in (None, call.attempts):
                return name, call
        return None

    def _has_failed(self, caller: str, digest: str | None, attempts: int) -> None:
        key, now = (caller, digest, attempts), self.clock()
        failed = self._failed.pop(key, None) or _Failed(now)
        failed.at, failed.count = now, failed.count + 1
        self._failed[key] = failed  # now the last to be forgotten
        while len(self._failed) > MOST_FAILED:
            self._failed.popitem(last=False)

    def _use_up(self, key: tuple[str, str | None, int]) -> bool:
        failed = self._failed.get(key)
        if failed is None:
            return False
        failed.count -= 1
        if failed.count == 0:
            del self._failed[key]
        return True

    def _forget(self) -> None:
        """What is too old, and of the rest the oldest while there is too much."""
        now = self.clock()
        while self._failed and now - next(iter(self._failed.values())).at > KEPT_S:
            self._failed.popitem(last=False)
        while self._done:
            name, call = next(iter(self._done.items()))
            crowded = self._bytes > MOST_BYTES or len(self._open) + len(self._done) >= MOST_CALLS
            if not crowded and now - call.done_at <= KEPT_S:
                break
            self._drop(name)
        # Of painters that are gone, with nobody asking.
        while self.silent_s < math.inf and self._open:
            name, call = next(iter(self._open.items()))
            if self._silent_s(call) <= KEPT_S and len(self._open) < MOST_CALLS:
                break
            self._drop(name)

    def _drop(self, name: str) -> None:
        call = self._open.pop(name, None) or self._done.pop(name)
        self._bytes -= call.size
        alike = self._alike[call.ticket.kind]
        del alike[name]
        if not alike:
            del self._alike[call.ticket.kind]
