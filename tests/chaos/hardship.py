"""Disks that are full, memory that is short, clocks that jump; some of it needs root's rights."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
# Debian's package libfaketime.
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_BLOCK = 64 * 1024


class SmallDisk:
    """A filesystem of a few megabytes that can be filled to the last byte.

    Args:
        folder: is mounted over.
        megabytes: its size.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        #: Why there is none here; then the folder is a plain one.
        self.why_not = done.stderr.strip() if done.returncode else ""

    def fill(self) -> None:
        """Nothing more can be written."""
        assert not self.why_not
        with self._filler.open("wb", buffering=0) as file:
            for size in (_BLOCK, 1):
                try:
                    while file.write(b"0" * size):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """There is room again."""
        self._filler.unlink()

    def unmount(self) -> None:
        """Gone, as soon as nobody has a file of it open."""
        if not self.why_not:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


class Squeeze:
    """A control group that lets its processes have hardly more memory than they have."""

    def __init__(self, folder: Path, *, unified: bool) -> None:
        self._folder = folder
        self._unified = unified

    def take(self, process: psutil.Process) -> None:
        """From now on the kernel kills ``process`` when it asks for more."""
        (self._folder / "cgroup.procs").write_text(str(process.pid))

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed for it."""
        name = "memory.events" if self._unified else "memory.oom_control"
        lines = (self._folder / name).read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


@contextmanager
def squeeze(name: str, limit: int = 1024 * 1024) -> Iterator[Squeeze | None]:
    """A group for ``limit`` bytes beyond what its processes had; ``None``: not possible here."""
    unified = (_CGROUP / "cgroup.controllers").exists()
    folder = (_CGROUP if unified else _CGROUP / "memory") / name
    try:
        folder.mkdir()
        (folder / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(limit))
    except OSError:
        if folder.exists():
            folder.rmdir()
        yield None
        return
    try:
        yield Squeeze(folder, unified=unified)
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            (folder.parent / "cgroup.procs").write_text(pid)
        folder.rmdir()
