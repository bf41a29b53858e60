"""Requests over HTTP, open loop and closed, and what came of them."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

# Each request has a prompt of its own: our replica remembers the latest ones.
PROMPT, _NUMBERS = "a red circle on a blue background {}", itertools.count()
TIMEOUT_S = 300.0
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Order:
    """One request."""

    seed: int
    steps: int = 8
    side: int = 64

    @property
    def body(self) -> dict[str, object]:
        """As all servers take it; another prompt each time."""
        return {
            "prompt": PROMPT.format(next(_NUMBERS)),
            "seed": self.seed,
            "num_inference_steps": self.steps,
            "width": self.side,
            "height": self.side,
        }


@dataclass
class Outcome:
    """What one load came to.

    Attributes:
        latencies: milliseconds of each answered request, from the time it was due.
        models: milliseconds of each that the server says are its model's.
        seconds: from the first request to the last answer.
        errors: what went wrong with the others.
    """

    latencies: list[float] = field(default_factory=list)
    models: list[float] = field(default_factory=list)
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


def model_ms(header: str) -> float:
    """Milliseconds that ``Server-Timing`` says the picture itself took.

    Ours names the replica's phases and a total that the ingress adds, which is no part of it; the
    others name one time, that of the pipeline.
    """
    parts = (part.strip().partition(";dur=") for part in header.split(","))
    times = {name: float(value) for name, _, value in parts if value}
    # Waiting for company in the batch is not the model's time; the others' is not either.
    phases = ("encode", "denoise", "decode")
    if all(phase in times for phase in phases):
        return sum(times[phase] for phase in phases)
    return times["pipeline"]


def check_picture(data: bytes, side: int) -> str | None:
    """What is wrong with an answer that should be a square PNG, if anything."""
    if not data.startswith(_PNG):
        return "no PNG"
    width, height = struct.unpack(">II", data[16:24])
    return None if (width, height) == (side, side) else f"{width}×{height} instead of {side}×{side}"


class Client:
    """Sends orders to one server."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/imagine"

    async def open_loop(self, orders: Sequence[Order], due_s: Sequence[float]) -> Outcome:
        """Send each order at its time whatever the server does."""
        outcome = Outcome()
        async with self._session() as session:
            begin = time.perf_counter()

            async def one(order: Order, due: float) -> None:
                await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
                # From the intended time: a late sender must not hide waiting.
                await self._send(session, order, begin + due, outcome)

            await asyncio.gather(*(one(o, d) for o, d in zip(orders, due_s, strict=True)))
            outcome.seconds = time.perf_counter() - begin
        return outcome

    async def closed_loop(self, orders: Sequence[Order], clients: int) -> Outcome:
        """So many clients, each sending its next order when the last was answered."""
        outcome, left = Outcome(), iter(orders)
        async with self._session() as session:
            begin = time.perf_counter()

            async def client() -> None:
                for order in left:
                    await self._send(session, order, time.perf_counter(), outcome)

            await asyncio.gather(*(client() for _ in range(clients)))
            outcome.seconds = time.perf_counter() - begin
        return outcome

    async def first_picture(self, give_up_s: float) -> None:
        """Return once a picture was answered.

        Raises:
            TimeoutError: there was none in time.
        """
        order = Order(seed=0, steps=1)
        async with asyncio.timeout(give_up_s):
            while True:
                outcome = Outcome()
                async with self._session() as session:
                    await self._send(session, order, time.perf_counter(), outcome)
                if outcome.latencies:
                    return
                await asyncio.sleep(0.2)

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def _send(self, session: Any, order: Order, due: float, outcome: Outcome) -> None:
        try:
            async with session.post(self._url, json=order.body) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome.errors.append(type(error).__name__)
            return
        now = time.perf_counter()
        problem = f"HTTP {answer.status}" if answer.status != 200 else None
        problem = problem or check_picture(data, order.side)
        if problem is not None:
            outcome.errors.append(problem)
            return
        outcome.latencies.append((now - due) * 1000)
        outcome.models.append(model_ms(answer.headers["server-timing"]))
