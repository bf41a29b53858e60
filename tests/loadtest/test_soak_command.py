"""The soak as a command, over a stand-in for the service that answers at once."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtest.soak import __main__ as soak
from loadtest.soak import mix

START = mix.picture()


class Service(BaseHTTPRequestHandler):
    """Knows good requests from bad ones, and takes long over long ones."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        bad = any(name.startswith("unknown_") for name in body)
        bad = bad or body.get("image", START) != START
        if body["num_inference_steps"] == 50:
            time.sleep(3 * mix._LEAVE_S)
        try:
            self.send_response(400 if bad else self.server.good)  # type: ignore[attr-defined]
            self.send_header("Content-Length", "0")
            self.end_headers()
        except BrokenPipeError:
            pass

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    made.daemon_threads, made.good = True, 200
    thread = threading.Thread(target=made.serve_forever)
    thread.start()

    @contextmanager
    def served(config: Path, log: Path) -> Iterator[tuple[str, int]]:
        yield f"http://127.0.0.1:{made.server_port}", os.getpid()

    monkeypatch.setattr(soak, "served", served)
    monkeypatch.setattr(soak, "_LOOK_S", 0.1)
    monkeypatch.setattr(soak, "_LOOKS", 1000)
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "soak.json").read_text("utf-8"))
    return found


def test_it_asks_all_kinds_and_writes_curves(server: Any, tmp_path: Path) -> None:
    soak.main(["--minutes", "0.05", "--clients", "2", "--out", str(tmp_path)])
    told = report(tmp_path)
    assert set(told["statuses"]) == {"200", "400", "left"}
    assert told["requests"] == sum(told["statuses"].values()) > 20
    assert len(told["samples"]) >= 12
    assert not any("instead of" in problem for problem in told["problems"])
    assert (tmp_path / "soak.png").stat().st_size > 1000


def test_a_wrong_answer_is_a_problem_and_the_exit_status(server: Any, tmp_path: Path) -> None:
    server.good = 500
    assert soak.main(["--minutes", "0.03", "--out", str(tmp_path)]) == 1
    assert any("500 instead of 200" in problem for problem in report(tmp_path)["problems"])


def test_ctrl_c_gives_the_report_so_far(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look, looks = soak.Soak._look, []

    def interrupted(one: soak.Soak) -> None:
        look(one)
        looks.append(one)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(soak.Soak, "_look", interrupted)
    assert soak.main(["--minutes", "60", "--out", str(tmp_path)]) == 1
    assert len(report(tmp_path)["samples"]) == 3
    assert "ended early" in capsys.readouterr().err
