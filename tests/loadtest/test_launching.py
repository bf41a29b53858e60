"""What a launcher starts has its port to itself, and nothing of it is left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.peers import processes
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.processes import running
from loadtest.emulated_cluster import emulated_cluster
from loadtest.launching import PortTaken, check_port, end
from loadtest.soak.__main__ import served

# Three processes that Ctrl-C does not end: itself; one in a session of its own; and one in the
# group whose parent is gone, so that it is nobody's child.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
apart = subprocess.Popen(sleep, start_new_session=True)
orphan = f"import subprocess; print(subprocess.Popen({sleep!r}, stdout=subprocess.DEVNULL).pid)"
pid = subprocess.run([sys.executable, "-c", orphan], stdout=subprocess.PIPE, text=True).stdout
print(apart.pid, pid.strip(), flush=True)
time.sleep(300)
"""


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_is_left_of_what_was_started() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout:
        started = [int(pid) for pid in process.stdout.readline().split()]
    assert [lives(pid) for pid in started] == [True, True]
    end(process, 0.5)
    assert process.returncode is not None
    until = time.monotonic() + 10
    while any(map(lives, started)):
        assert time.monotonic() < until, started
        time.sleep(0.05)


def test_what_has_ended_by_itself_leaves_nothing_either() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"], start_new_session=True)
    process.wait()
    end(process, 0.5)


def test_a_port_that_is_taken_is_named_and_a_free_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} of 127.0.0.1: Address already in use"):
            check_port(port)
        with pytest.raises(PortTaken):
            check_port(port, "0.0.0.0")
    check_port(port)


def soaking(port: int, folder: Path) -> AbstractContextManager[object]:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"host": "127.0.0.1", "port": port}}))
    return served(config, folder / "log")


def emulating(port: int, folder: Path) -> AbstractContextManager[object]:
    return emulated_cluster(port=port)


def comparing(port: int, folder: Path) -> AbstractContextManager[object]:
    return running(Contestant("any", ("true",)), folder / "log")


@pytest.mark.parametrize("launch", [soaking, emulating, comparing])
def test_launchers_start_nothing_on_a_taken_port(
    launch: Callable[[int, Path], AbstractContextManager[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setattr(processes, "PORT", port)
        # The soak says it as a command does.
        with (
            pytest.raises((PortTaken, SystemExit), match=f"port {port} of 127"),
            launch(port, tmp_path),
        ):
            pass
