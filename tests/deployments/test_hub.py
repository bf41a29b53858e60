"""Models from a hub: a small server with the hub's HTTP interface, and the real client."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.deployments.test_model import ModelFolder, change

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "a" * 40
REPO = "someone/tiny"
# What real repositories hold beside the parts, and nobody here needs: pickles, other frameworks'
# weights, half-precision copies, one-file checkpoints, the safety checker, pictures.
UNNEEDED = (
    "tiny.safetensors",
    "tiny.ckpt",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_flax_model.msgpack",
    "text_encoder/pytorch_model.bin",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "sample.png",
)


@dataclass
class Hub:
    """A model hub with one repository.

    Attributes:
        folder: the repository's files.
        got: files whose content was sent.
        tokens: ``Authorization`` headers that came with the requests for them.
    """

    folder: Path
    url: str = ""
    got: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def files(self) -> list[str]:
        """Every file of the repository."""
        return sorted(
            str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()
        )

    def listing(self) -> Any:
        """What ``/api/models/…`` answers."""
        siblings = [{"rfilename": name} for name in self.files()]
        return {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings, "tags": []}

    def tree(self) -> Any:
        """What ``/api/models/…/tree/…`` answers."""
        return [
            {
                "type": "file",
                "path": name,
                "size": (self.folder / name).stat().st_size,
                "oid": hashlib.sha1(name.encode()).hexdigest(),
            }
            for name in self.files()
        ]


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(f"/api/models/{REPO}/tree/"):
                self.send(json.dumps(hub.tree()).encode(), body, "application/json")
            elif path.startswith(f"/api/models/{REPO}"):
                self.send(json.dumps(hub.listing()).encode(), body, "application/json")
            elif path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
                name = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
                if (hub.folder / name).is_file():
                    if body:
                        hub.got.append(name)
                        hub.tokens.add(self.headers.get("Authorization"))
                    self.send((hub.folder / name).read_bytes(), body, "application/octet-stream")
                else:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def send(self, data: bytes, body: bool, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def hub(model_folder: ModelFolder, tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    shutil.copytree(model_folder("sd1"), folder)
    for name in UNNEEDED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    parts = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    change(folder / "model_index.json", safety_checker=parts, requires_safety_checker=True)
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


CODE = """
import sys
from deployments.model_info import ModelError, load_model_info
from deployments.model import load_pipeline
try:
    print(load_model_info(sys.argv[1], sys.argv[2]).revision)
    print(type(load_pipeline(sys.argv[1], sys.argv[2]).unet).__name__)
except ModelError as error:
    sys.exit(f"ModelError: {error}")
"""


def load(home: Path, repo: str = REPO, **env: str) -> subprocess.CompletedProcess[str]:
    """Load a model in a process of its own: the client reads its variables when imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", CODE, repo, COMMIT],
        cwd=ROOT,
        env=clean | {"HF_HOME": str(home), "HF_TOKEN": "hf_secret", "PYTHONPATH": "."} | env,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_only_what_is_needed_is_fetched_and_kept(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = load(home, HF_ENDPOINT=hub.url)
    assert first.stdout.split() == [COMMIT, "UNet2DConditionModel"], first.stderr
    assert "unet/diffusion_pytorch_model.safetensors" in hub.got
    # JSON files are small, and all are looked at for the model's description.
    assert set(hub.got) & set(UNNEEDED) <= {"safety_checker/config.json"}
    assert len(hub.got) == len(set(hub.got))
    assert hub.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in first.stdout + first.stderr

    hub.got.clear()
    again = load(home, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout, again.stderr
    assert not hub.got


def test_a_repository_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    done = load(tmp_path / "home", "someone/else", HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "ModelError: model.source: 'someone/else' does not download" in done.stderr
