"""Clients that are slow, stop half-way or close their half of the connection, beside good ones."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.chaos.shared import BODY_TIMEOUT_S, Shared
from tests.chaos.stand import request

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REQUESTS = 200
EACH = 15
LONG_S = 60


class Connection:
    """A client that speaks HTTP by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, url: str, *, window: int | None = None) -> Connection:
        """Connect; ``window``: bytes that the other side may send ahead."""
        parts = urlsplit(url)
        sock = socket.socket()
        sock.setblocking(False)
        if window is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        return cls(*await asyncio.open_connection(sock=sock, limit=window or 2**16))

    async def send(self, seed: int, *, much: float = 1.0) -> None:
        """A request, or so much of it."""
        body = json.dumps(request(seed)).encode()
        head = (
            "POST /imagine HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        whole = head.encode() + body
        self.writer.write(whole[: int(len(whole) * much)])
        await self.writer.drain()

    async def answer(self, *, pause_s: float = 0.0, piece: int = 2**16) -> tuple[int, bytes]:
        """Status and body; 0 when the connection ends without an answer."""
        data = b""
        while part := await self.reader.read(piece):
            data += part
            await asyncio.sleep(pause_s)
        self.writer.close()
        if not data:
            return 0, b""
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


async def slow_reader(stand: Shared, seed: int) -> tuple[int, bytes]:
    """Takes its answer in small pieces."""
    client = await Connection.to(stand.url, window=1024)
    await client.send(seed)
    return await client.answer(pause_s=0.02, piece=256)


async def stopped_half_way(stand: Shared, seed: int) -> tuple[int, bytes]:
    """Never sends the end of its body."""
    client = await Connection.to(stand.url)
    await client.send(seed, much=0.95)
    return await client.answer()


async def half_closed(stand: Shared, seed: int) -> tuple[int, bytes]:
    """Says that it will send nothing more, and waits for its answer."""
    client = await Connection.to(stand.url)
    await client.send(seed)
    client.writer.write_eof()
    return await client.answer()


async def test_slow_and_half_closed_clients_harm_nobody(fresh: Shared) -> None:
    # Those that never finish their headers hold a connection, and nothing else.
    loris = [await Connection.to(fresh.url) for _ in range(EACH)]
    for seed, client in enumerate(loris):
        await client.send(seed, much=0.2)
    async with asyncio.timeout(2 * LONG_S), asyncio.TaskGroup() as group:
        good = group.create_task(fresh.run(count=REQUESTS, counted=False))
        kinds = {
            kind.__name__: [group.create_task(kind(fresh, seed)) for seed in range(EACH)]
            for kind in (slow_reader, stopped_half_way, half_closed)
        }
    fresh.check("slow and half-closed clients", good.result(), counted=False)
    found = {name: [task.result() for task in tasks] for name, tasks in kinds.items()}
    print({name: sorted({status for status, _ in answers}) for name, answers in found.items()})
    assert found["slow_reader"] == [(200, fresh.pictures[seed]) for seed in range(EACH)]
    assert {status for status, _ in found["stopped_half_way"]} == {408}
    # The picture, or an end: an HTTP server may take a half-closed client for one that left.
    for seed, answer in enumerate(found["half_closed"]):
        assert answer in ((200, fresh.pictures[seed]), (0, b""))
    fresh.settle()
    for client in loris:
        client.writer.close()
    assert BODY_TIMEOUT_S < LONG_S
