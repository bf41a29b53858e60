"""The ``imagine`` command: streams, services without them, errors, pictures in terminals."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serve_app.client import command
from serve_app.client.events import Event, read_events
from serve_app.client.terminal import Protocol, drawn, protocol_of

ROOT = Path(__file__).resolve().parents[2]
Handler = Callable[[httpx.Request], httpx.Response]


def png(colour: tuple[int, int, int] = (200, 0, 0), size: tuple[int, int] = (40, 28)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def answer(*pictures: bytes) -> dict[str, Any]:
    one = {"seed": 7, "pool": "gpu", "accelerator": "l4", "media_type": "image/png"}
    return {"created": 1, "data": [{**one, "b64_json": b64(image)} for image in pictures]}


def stream(*events: tuple[str, dict[str, Any]], end: str = "") -> httpx.Response:
    """What the service sends: heartbeats in between."""
    text = "".join(
        f": still there\n\nevent: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events
    )
    headers = {"content-type": "text/event-stream"}
    return httpx.Response(200, headers=headers, text=text + end)


def refusal(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "x"}
    return httpx.Response(status, json={"error": {**error, **more}}, headers=headers)


class Asked:
    """A service that remembers what it was asked and answers in turn."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers: Iterator[httpx.Response] = iter(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return next(self.answers)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]

    def run(self, *arguments: str, environ: dict[str, str] | None = None) -> None:
        command.main(arguments, environ or {}, httpx.MockTransport(self))


DONE = ("done", answer(png()))


def test_a_watched_picture(tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    service = Asked(
        stream(
            ("queued", {"index": 0, "place": None, "pool": "gpu"}),
            ("queued", {"index": 0, "place": 2, "pool": None}),
            ("step", {"index": 0, "step": 1, "steps": 2}),
            ("preview", {"index": 0, "preview": 0, "step": 1, "steps": 2, "b64_json": b64(png())}),
            ("step", {"index": 0, "step": 2, "steps": 2}),
            DONE,
        )
    )
    service.run("a red circle", "-o", str(out), "--seed", "7", "--pool", "gpu", "--steps", "2")
    assert out.read_bytes() == png()
    assert service.bodies == [
        {
            "prompt": "a red circle",
            "seed": 7,
            "pool": "gpu",
            "num_inference_steps": 2,
            "output_format": "png",
            "stream": True,
        }
    ]
    assert "authorization" not in service.requests[0].headers


def test_a_service_that_knows_no_streams(tmp_path: Path) -> None:
    unknown = refusal(400, "stream: unknown field", code="unknown_field", param="stream")
    service = Asked(unknown, httpx.Response(200, json=answer(png(), png((0, 9, 0)))))
    service.run("a", "-n", "2", "-o", str(tmp_path / "b.png"))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["b-1.png", "b-2.png"]
    assert "stream" not in service.bodies[1]
    assert service.requests[1].headers["accept"] == "application/json"


def test_server_and_key_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    key_file, out = tmp_path / "key", str(tmp_path / "c.webp")
    key_file.write_text("im-from-a-file\n")
    environ = {"IMAGINE_API_KEY": "im-secret", "IMAGINE_SERVER": "https://a.example/base"}
    service = Asked(stream(DONE), stream(DONE))
    service.run("a", "-o", out, environ=environ)
    arguments = ("--server", "http://b.example", "--key-file", str(key_file))
    service.run("a", "-o", out, *arguments, environ=environ)
    assert [str(request.url) for request in service.requests] == [
        "https://a.example/base/imagine",
        "http://b.example/imagine",
    ]
    keys = [request.headers["authorization"] for request in service.requests]
    assert keys == ["Bearer im-secret", "Bearer im-from-a-file"]
    assert service.bodies[0]["output_format"] == "webp"


def test_a_start_picture_is_sent(tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    start.write_bytes(png())
    service = Asked(stream(DONE))
    mask = tmp_path / "mask.png"
    mask.write_bytes(png((255, 255, 255)))
    files = ("--image", str(start), "--mask", str(mask))
    service.run("a", *files, "--strength", "0.5", "-o", str(tmp_path / "d.png"))
    assert service.bodies[0]["image"] == b64(png())
    assert service.bodies[0]["mask"] == b64(png((255, 255, 255)))
    assert service.bodies[0]["strength"] == 0.5


FAILURES: list[tuple[str, httpx.Response, str]] = [
    ("refused", refusal(400, "width: got 3"), "width: got 3"),
    ("busy", refusal(429, "too much", {"retry-after": "9"}), "too much (try again in 9 s)"),
    ("no key", refusal(401, "an API key is needed"), "an API key is needed"),
    ("not ours", httpx.Response(502, text="<html>"), "HTTP 502"),
    ("not ours, JSON", httpx.Response(404, json={"detail": "x"}), "HTTP 404"),
    (
        "failed midway",
        stream(("error", {"error": {"message": "the replica was lost", "code": "lost"}})),
        "the replica was lost",
    ),
    ("broken off", stream(("step", {"index": 0, "step": 1, "steps": 9})), "broke off"),
    ("no JSON", stream(end="event: done\ndata: {\n\n"), "no picture"),
    ("no picture", stream(("done", {"data": [{}]})), "no picture"),
    ("no base64", stream(("done", {"data": [{"b64_json": "@"}]})), "no picture"),
]


@pytest.mark.parametrize(
    ("response", "words"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES]
)
def test_failures_are_told_in_a_sentence(
    response: httpx.Response, words: str, tmp_path: Path
) -> None:
    out = tmp_path / "e.png"
    with pytest.raises(SystemExit) as caught:
        Asked(response).run("a", "-o", str(out))
    assert words in str(caught.value)
    assert not out.exists()


def test_a_service_that_is_not_there_and_a_bad_name() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(SystemExit, match=r"127\.0\.0\.1:8000 does not answer"):
        command.main(["a"], {}, httpx.MockTransport(refuse))
    with pytest.raises(SystemExit, match=r"-o: x\.tiff: name a file"):
        command.main(["a", "-o", "x.tiff"], {})
    with pytest.raises(SystemExit, match="nowhere"):
        command.main(["a", "--image", "nowhere.png"], {})


def test_events() -> None:
    lines = [
        "data: {",
        'data: "a": 1}',
        "",
        ": beat",
        "",
        "event:b",
        "id: 3",
        "data:{}",
        "",
        "data",
    ]
    assert list(read_events(lines)) == [Event("message", {"a": 1}), Event("b", {})]
    with pytest.raises(ValueError, match="not a JSON object"):
        list(read_events(["data: 3", ""]))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-sixel"}, "sixel"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/x"}, None),
        ({"TERM": "xterm-256color"}, None),
        ({}, None),
    ],
)
def test_terminals(environ: dict[str, str], expected: Protocol | None) -> None:
    assert protocol_of(environ) == expected


def decode_sixels(text: str) -> Any:
    """An own reading of sixels: ``[height, width, 3]`` of percentages; -1 where nothing is."""
    palette = {
        int(n): tuple(map(int, rgb.split(";")))
        for n, rgb in re.findall(r"#(\d+);2;(\d+;\d+;\d+)", text)
    }
    body = re.sub(r"#\d+;2;\d+;\d+;\d+", "", text.split("\x1bPq")[1].split("\x1b\\")[0])
    bands = body.rstrip("-").split("-")
    width = max(len(run) for band in bands for _, run in re.findall(r"#(\d+)([?-~]*)\$", band))
    out = np.full((len(bands) * 6, width, 3), -1)
    for number, band in enumerate(bands):
        for colour, run in re.findall(r"#(\d+)([?-~]*)\$", band):
            for x, letter in enumerate(run):
                for bit in range(6):
                    if (ord(letter) - 63) >> bit & 1:
                        out[number * 6 + bit, x] = palette[int(colour)]
    return out


def test_sixels_show_the_picture() -> None:
    picture = Image.new("RGB", (20, 13), (255, 0, 0))
    picture.paste((0, 0, 255), (5, 4, 15, 10))
    out = io.BytesIO()
    picture.save(out, "PNG")
    seen = decode_sixels(drawn(out.getvalue(), "sixel"))
    assert (seen[:13] == np.asarray(picture, int) * 100 // 255).all()
    assert (seen[13:] == -1).all()


def test_kitty_and_iterm_carry_the_picture() -> None:
    chance = np.random.default_rng(1).integers(0, 255, (200, 200, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(chance).save(out, "PNG")
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", drawn(out.getvalue(), "kitty"))
    assert len(chunks) > 2
    assert all(len(data) <= 4096 for _, data in chunks)
    assert chunks[0][0] == "a=T,f=100,m=1"
    assert [keys for keys, _ in chunks[1:]] == ["m=1"] * (len(chunks) - 2) + ["m=0"]
    found = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+):(.*)\x07\n", drawn(out.getvalue(), "iterm")
    )
    assert found is not None
    for data in ("".join(data for _, data in chunks), found[2]):
        shown = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (np.asarray(shown) == chance).all()


@contextmanager
def painting_server(*events: tuple[str, dict[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """A service at an address, which streams ``events``; and the bodies it was sent."""
    answer, bodies = stream(*events).content, []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_a_terminal(*arguments: str, term: str) -> str:
    """All that the command writes to a terminal that calls itself ``term``."""
    ours, its = pty.openpty()
    hidden = ("TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL", "IMAGINE_API_KEY")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.Popen(
        [sys.executable, "-m", "serve_app.client.command", *arguments],
        stdin=its, stdout=its, stderr=its, cwd=ROOT, env=environ | {"TERM": term},
    )  # fmt: skip
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the terminal has been let go
        while piece := os.read(ours, 65_536):
            shown += piece
    os.close(ours)
    assert process.wait(30) == 0, shown
    return shown.decode()


@pytest.mark.parametrize(("term", "pictures"), [("xterm-kitty", 2), ("xterm-256color", 0)])
def test_previews_come_out_of_a_terminal(term: str, pictures: int, tmp_path: Path) -> None:
    preview = {"index": 0, "preview": 0, "step": 1, "steps": 2, "b64_json": b64(png((0, 9, 0)))}
    step = ("step", {"index": 0, "step": 1, "steps": 2})
    out = tmp_path / "f.png"
    with painting_server(step, ("preview", preview), DONE) as (url, bodies):
        shown = in_a_terminal("a", "-o", str(out), "--server", url, term=term)
    assert [body.get("partial_images") for body in bodies] == [3 if pictures else None]
    found = re.findall(r"\x1b_Ga=T,f=100,m=0;([^\x1b]*)\x1b\\", shown)
    colours = [Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) for data in found]
    assert colours == [(0, 9, 0), (200, 0, 0)][:pictures]
    assert ("\x1b_G" in shown) == bool(pictures)
    assert out.read_bytes() == png()


def test_the_command_is_light() -> None:
    """It starts without torch, ray, or the server."""
    code = (
        "import sys, serve_app.client.command;"
        "sys.exit(', '.join({'torch', 'ray', 'starlette', 'pydantic'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
