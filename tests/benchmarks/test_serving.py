"""The servers that are measured: alike in what is not theirs, and gone without harm to others."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from benchmarks import stock
from benchmarks.peers import processes
from benchmarks.peers.contestants import Contestant
from benchmarks.prompt import Prompt
from benchmarks.serving import contestants
from tests.e2e.conftest import free_port

# Answers every request with a picture; tells its environment and a child that would outlive it.
SERVER = """
import http.server, io, json, os, subprocess, sys
from PIL import Image
picture = io.BytesIO()
Image.new("RGB", (64, 64)).save(picture, "PNG")
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
told = {"child": child.pid, "environment": dict(os.environ)}
print(json.dumps(told), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.send_header("server-timing", "pipeline;dur=1")
        self.send_header("content-length", str(len(picture.getvalue())))
        self.end_headers()
        self.wfile.write(picture.getvalue())
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_all_start_with_the_same_threads_and_only_what_they_started_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, log = free_port(), tmp_path / "log"
    monkeypatch.setattr(processes, "URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    server = Contestant("server", (sys.executable, "-c", SERVER, str(port)))
    # Looks like somebody's cluster to whoever goes by names.
    other = subprocess.Popen(["ray/raylet/raylet", "60"], executable="/bin/sleep")
    try:
        with processes.running(server, log, 30) as started:
            told = json.loads(log.read_text())
            child = psutil.Process(told["child"])
            assert child.is_running()
        environment = told["environment"]
        assert (environment["OMP_WAIT_POLICY"], environment["GOMP_SPINCOUNT"]) == ("PASSIVE", "0")
        assert not started.process.is_running()
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_everyone_has_a_cluster_of_its_own_and_chooses_its_threads(tmp_path: Path) -> None:
    found = contestants(tmp_path)
    clusters = [c.command for c in found if Path(c.command[0]).name == "serve"]
    assert len(clusters) == 4
    assert all(command[1:4] == ("run", "--address", "local") for command in clusters)
    assert not {key for c in found for key in c.environment if "OMP" in key}
    (application,) = yaml.safe_load(Path(clusters[-1][-1]).read_text())["applications"]
    assert "engine" not in application["args"]["pools"]["cpu"]


@pytest.mark.parametrize("fastest", [1, 2, 4])
def test_a_pattern_keeps_the_number_of_threads_that_paints_soonest(
    fastest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paint(prompts: list[Prompt]) -> None:
        time.sleep(0.001 if torch.get_num_threads() == fastest else 0.01)

    before = torch.get_num_threads()
    monkeypatch.setattr(stock, "paint", paint)
    monkeypatch.setattr(stock, "usable_cores", lambda: 4)
    try:
        assert stock.start_fastest() == torch.get_num_threads() == fastest
    finally:
        torch.set_num_threads(before)
