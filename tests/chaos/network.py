"""A Ray cluster whose nodes have network stacks of their own, joined by a bridge.

Every node is started as a person starts it, with ``ray start``; its cable can be pulled, and the
head can be killed and started anew over the same Redis.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.e2e.conftest import ROOT, free_port, wait_for

HEAD = "head"
_RAY = str(Path(sys.executable).with_name("ray"))
# A lost node is noticed within some seconds instead of some tens.
_QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    # A private bridge: a token that this account may have for other clusters has no place here.
    "RAY_AUTH_MODE": "disabled",
}


def why_not() -> str:
    """Why there can be no such cluster here; ``""``: there can."""
    for tool, package in (("ip", "iproute2"), ("redis-server", "redis-server")):
        if shutil.which(tool) is None:
            return f"{tool!r} is missing (Debian package {package})"
    name = f"cp{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespace can be made here (needs CAP_SYS_ADMIN): {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started, at once and without notice."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for one in family:
        if one.is_running():
            one.kill()
    psutil.wait_procs(family, 10)
    process.wait()


@dataclass
class Network:
    """The bridge, the namespaces, Redis and the nodes' processes.

    Attributes:
        folder: logs, Ray's files and Redis' data.
        gcs: port of the head's GCS.
        dashboard: port of Ray's dashboard.
        nodes: running ``ray start`` commands by the node's name.
        addresses: IP addresses by the node's name.
    """

    folder: Path
    gcs: int
    dashboard: int
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    redis: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        number = os.getpid() % 4000
        self._tag = f"c{number}"
        self._net = f"10.{200 + number // 250 % 50}.{number % 250}"
        self.addresses[HEAD] = f"{self._net}.1"
        self._redis_port = free_port()

    def up(self) -> None:
        """The bridge, on which the head listens, and Redis."""
        _ip("link", "add", self._tag, "type", "bridge")
        _ip("addr", "add", f"{self.addresses[HEAD]}/24", "dev", self._tag)
        _ip("link", "set", self._tag, "up")
        command = ["redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--appendonly", "yes"]
        with (self.folder / "redis.log").open("wb") as log:
            self.redis = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def down(self) -> None:
        """Everything is gone."""
        for process in self.nodes.values():
            kill_tree(process)
        for name in [name for name in self.addresses if name != HEAD]:
            _ip("netns", "del", self._space(name))  # its cable goes with it
        if self.redis is not None:
            kill_tree(self.redis)
        _ip("link", "del", self._tag)

    def start_head(self) -> None:
        """The head; where Redis remembers one, the same again."""
        options = ["--head", f"--port={self.gcs}", f"--dashboard-port={self.dashboard}"]
        options += ["--num-cpus=0", f"--temp-dir={self.folder / 'ray'}"]
        options += ["--include-dashboard=true", "--disable-usage-stats"]
        # `ray start --head` looks whether any process here knows its address; on a machine of its
        # own there would be none, so it gets a process table of its own.
        alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._start(HEAD, [*alone, _RAY, "start", *options], RAY_REDIS_ADDRESS=self._redis)

    def add_node(self, name: str, resources: str) -> None:
        """A node behind a cable of its own.

        Args:
            name: a word of at most six letters.
            resources: its made-up resources, as JSON.
        """
        address = f"{self._net}.{len(self.addresses) + 1}"
        space, outside, inside = self._space(name), f"{self._tag}{name}", f"{self._tag}i{name}"
        self.addresses[name] = address
        _ip("netns", "add", space)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", outside, "master", self._tag, "up")
        _ip("link", "set", inside, "netns", space)
        for command in (
            ["addr", "add", f"{address}/24", "dev", inside],
            ["link", "set", inside, "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip("-n", space, *command)
        self.join(name, resources)

    def join(self, name: str, resources: str) -> None:
        """Start Ray on a node whose cable is there."""
        options = [f"--address={self.addresses[HEAD]}:{self.gcs}", f"--resources={resources}"]
        ray = [_RAY, "start", *options, "--num-cpus=1", "--object-store-memory=100000000"]
        self._start(name, ["ip", "netns", "exec", self._space(name), *ray])

    def cut(self, name: str) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        _ip("link", "set", f"{self._tag}{name}", "down")

    def mend(self, name: str) -> None:
        """Plug it in again."""
        _ip("link", "set", f"{self._tag}{name}", "up")

    def kill(self, name: str) -> None:
        """All of a node's processes at once."""
        kill_tree(self.nodes.pop(name))

    @property
    def _redis(self) -> str:
        return f"127.0.0.1:{self._redis_port}"

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _start(self, name: str, command: list[str], **more: str) -> None:
        command = [*command, f"--node-ip-address={self.addresses[name]}", "--block"]
        environment = os.environ | _QUICK | {"PYTHONPATH": str(ROOT)} | more
        (self.folder / f"{name}.log").touch()
        seen = self._log(name).count("Ray runtime started")
        with (self.folder / f"{name}.log").open("ab") as log:
            self.nodes[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
            )

        def runs() -> bool:
            assert self.nodes[name].poll() is None, self._log(name)
            return self._log(name).count("Ray runtime started") > seen

        wait_for(f"node {name}", runs, 90)

    def _log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


@contextmanager
def network() -> Iterator[Network]:
    """A head and no other node, for the time of the block."""
    # Unix sockets have short names: not pytest's folder.
    folder = Path(tempfile.mkdtemp(prefix="rc"))
    made = Network(folder, free_port(), free_port())
    try:
        made.up()
        made.start_head()
        yield made
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
