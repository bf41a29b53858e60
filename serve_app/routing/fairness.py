"""Fair shares for clients: when there is more to do than the pools can take at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from serve_app.routing.work import Work

# More than the pools' rows are let through, so that a replica always has the next request at hand.
FULL = 1.5
_ROUNDING = 1e-6
_MOST_KEYS = 1000
# Told a place in the queue, from 1; must return at once.
Placed = Callable[[int], None]


def may_enter(rows: float, inside: float, room: float, *, ahead: bool = False) -> bool:
    """Whether a request goes through the gate, by which it does not wait for its turn.

    Whoever is alone goes ahead, else one that is larger than all room would wait for ever.

    Args:
        rows: of the request.
        inside: rows that are through and not yet answered.
        room: rows that may be.
        ahead: whether others wait for their turn, whom a newcomer does not overtake.
    """
    return not ahead and (inside < _ROUNDING or inside + rows <= room)


@dataclass(slots=True, order=True)
class _Entry:
    tag: float
    number: int
    key: str = field(compare=False)
    length: float = field(compare=False)
    work: Work = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)
    placed: Placed | None = field(compare=False, default=None)
    place: int = field(compare=False, default=0)


class FairQueue:
    """Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996).

    Each entry has a start tag: the later of the queue's virtual time and the end of the key's
    previous entry; its length is its row-steps over the key's weight. The smallest start is
    next. So over any time in which two keys both wait, they are served in the ratio of their
    weights, to within one entry each; a key that asks for little is never behind more than one
    entry of another.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._finish: dict[str, float] = {}
        self._queued: dict[str, tuple[int, float]] = {}  # entries and row-steps by key
        self._now = 0.0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def push(
        self,
        key: str,
        weight: float,
        work: Work,
        turn: asyncio.Future[None],
        placed: Placed | None = None,
    ) -> None:
        """Line up for ``key``; ``placed`` is told the place by ``tell_places``."""
        start = max(self._now, self._finish.get(key, 0.0))
        length = work.row_steps / weight
        self._finish[key] = start + length
        entries, row_steps = self._queued.get(key, (0, 0.0))
        self._queued[key] = (entries + 1, row_steps + work.row_steps)
        entry = _Entry(start, next(self._numbers), key, length, work, turn, placed)
        heapq.heappush(self._entries, entry)

    def first(self) -> Work | None:
        """The work whose turn is next."""
        return self._entries[0].work if self._entries else None

    def pop(self) -> asyncio.Future[None]:
        """Take out the next."""
        entry = heapq.heappop(self._entries)
        self._now = entry.tag
        self._gone(entry)
        if len(self._finish) > _MOST_KEYS:  # too many to remember those with nothing to be served
            self._finish = {key: self._finish[key] for key in self._queued}
        return entry.turn

    def discard(self, turn: asyncio.Future[None]) -> None:
        """Take out one whose caller has left; nothing happens if it is not here."""
        for index, entry in enumerate(self._entries):
            if entry.turn is turn:
                self._entries.pop(index)
                heapq.heapify(self._entries)
                self._finish[entry.key] -= entry.length  # it is not charged for what it did not get
                self._gone(entry)
                return

    def ahead(self, key: str, weights: Callable[[str], float]) -> float:
        """About how many row-steps are served before a new entry of ``key`` is."""
        total = sum(row_steps for _, row_steps in self._queued.values())
        own = self._queued.get(key, (0, 0.0))[1]
        active = sum(weights(name) for name in self._queued if name != key) + weights(key)
        return min(total, own * active / weights(key))

    def tell_places(self) -> None:
        """Tell those who want to know their place, if it has changed."""
        if all(entry.placed is None for entry in self._entries):
            return
        for place, entry in enumerate(sorted(self._entries), start=1):
            if entry.placed is not None and entry.place != place:
                entry.place = place
                entry.placed(place)

    def _gone(self, entry: _Entry) -> None:
        entries, row_steps = self._queued.pop(entry.key)
        if entries > 1:
            self._queued[entry.key] = (entries - 1, row_steps - entry.work.row_steps)
        if not self._entries:  # nobody is owed anything: forget the past, also old keys
            self._finish.clear()
            self._now = 0.0


class FairGate:
    """Lets requests through while the pools have rows for them, else in fair turns.

    Off (no weights configured) it lets everything through at once.

    Args:
        room: rows that the pools can take from this ingress replica at once.
    """

    def __init__(self, room: Callable[[], float]) -> None:
        self._room = room
        self._queue = FairQueue()
        self._inside = 0.0
        self._telling = False
        self._weights: Mapping[str, float] | None = None
        self._default = 1.0

    @property
    def active(self) -> bool:
        """Whether clients share fairly."""
        return self._weights is not None

    @property
    def waiting(self) -> int:
        """Requests waiting for their turn."""
        return len(self._queue)

    def configure(self, weights: Mapping[str, float] | None, default: float = 1.0) -> None:
        """Take new weights by key into force; ``None`` switches fair sharing off."""
        self._weights = None if weights is None else dict(weights)
        self._default = default
        self._let_in()

    def ahead(self, key: str) -> float:
        """About how many row-steps wait here before a new request of ``key``."""
        return self._queue.ahead(key, self._weight) if self._queue else 0.0

    @asynccontextmanager
    async def turn(self, key: str, work: Work, placed: Placed | None = None) -> AsyncIterator[None]:
        """Inside, the request may be sent to a pool; ``placed`` is told its place until then."""
        if not self._may_enter(work, ahead=bool(self._queue)):
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.push(key, self._weight(key), work, waiting, placed)
            self._let_in()  # there may be new replicas
            try:
                await waiting
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled():  # its turn had just come
                    self._leave(work)
                else:
                    self._queue.discard(waiting)
                    self._tell_places()
                raise
        else:
            self._inside += work.rows
        try:
            yield
        finally:
            self._leave(work)

    def _leave(self, work: Work) -> None:
        self._inside -= work.rows
        self._let_in()

    def _let_in(self) -> None:
        while (work := self._queue.first()) is not None and self._may_enter(work):
            turn = self._queue.pop()
            if not turn.done():
                self._inside += work.rows
                turn.set_result(None)
        self._tell_places()

    def _tell_places(self) -> None:
        """Soon, and once for all that changes until then: it looks at the whole queue."""

        def tell() -> None:
            self._telling = False
            self._queue.tell_places()

        if self._queue and not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(tell)

    def _may_enter(self, work: Work, *, ahead: bool = False) -> bool:
        if not self.active:
            return not ahead
        return may_enter(work.rows, self._inside, self._room(), ahead=ahead)

    def _weight(self, key: str) -> float:
        return (self._weights or {}).get(key, self._default)
