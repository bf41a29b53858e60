"""A small HTTP proxy that goes wrong on purpose."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

# What it does to a request: pass it on; answer by itself; or pass it on and lose the answer.
Mishap = Literal["pass", "429", "500", "lose"]


@dataclass
class FlakyProxy:
    """Forwards to a service.

    Attributes:
        url: where it listens.
        mishaps: for the next requests in turn; "pass" when there are no more.
        attempts: ``X-Stainless-Retry-Count`` of the requests seen.
        at: monotonic seconds of the requests seen.
        statuses, headers, bodies: of the service's answers, also of those that are lost.
    """

    target: str
    url: str = ""
    mishaps: list[Mishap] = field(default_factory=list)
    attempts: list[str | None] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def forward(self, handler: BaseHTTPRequestHandler) -> None:
        """Deal with one request."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.at.append(time.monotonic())
        self.attempts.append(handler.headers.get("X-Stainless-Retry-Count"))
        mishap = self.mishaps.pop(0) if self.mishaps else "pass"
        if mishap in ("429", "500"):
            handler.send_response(int(mishap))
            handler.send_header("Retry-After", "0.1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        parts = urlsplit(self.target)
        upstream = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        headers = {k: v for k, v in handler.headers.items() if k.lower() != "host"}
        upstream.request(handler.command, handler.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        self.statuses.append(answer.status)
        self.headers.append({name.lower(): value for name, value in answer.getheaders()})
        self.bodies.append(data)
        upstream.close()
        if mishap == "lose":
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


@contextmanager
def flaky_proxy(target: str) -> Iterator[FlakyProxy]:
    """A proxy in front of ``target``, an address without a path."""
    proxy = FlakyProxy(target)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            proxy.forward(self)

        do_POST = do_GET  # noqa: N815 - the base class' name

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
