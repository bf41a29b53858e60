"""The code blocks of README and docs, and how each is proven.

A block is run by a test, or stands under ``<!-- not run: the reason -->``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)$")
_PICTURE = re.compile(r"\b([\w-]+\.(?:png|jpg|webp))\b")
_NOT_RUN = re.compile(r"^\s*<!-- not run: (?P<reason>.+) -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: file, relative to the repository's root.
        line: of the opening fence, from 1.
        language: the fence's info string.
        text: what stands between the fences.
        not_run: why no test runs it; empty where one does.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str

    @property
    def where(self) -> str:
        """``page:line``."""
        return f"{self.page}:{self.line}"

    @property
    def needs_service(self) -> bool:
        """Whether it is for a second terminal while the service runs."""
        return self.language == "console" or "127.0.0.1:8000" in self.text


def pages() -> list[Path]:
    """All Markdown that is written for people."""
    return [
        path
        for path in sorted(ROOT.rglob("*.md"))
        if not any(
            part.startswith(".") or part in ("build", "tests", "node_modules")
            for part in path.relative_to(ROOT).parts
        )
    ]


def read(path: Path) -> Iterator[Block]:
    """The blocks of one page, in order.

    Raises:
        ValueError: a fence is never closed.
    """
    page = path.relative_to(ROOT).as_posix()
    lines = path.read_text("utf-8").splitlines()
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = number, fence["language"]
            continue
        begin, language = opened
        mark = _NOT_RUN.match(lines[begin - 2]) if begin > 1 else None
        yield Block(
            page=page,
            line=begin,
            language=language,
            text="\n".join(lines[begin : number - 1]) + "\n",
            not_run=mark["reason"] if mark else "",
        )
        opened = None
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: this block is never closed")


def blocks() -> list[Block]:
    """Every block of every page."""
    return [block for path in pages() for block in read(path)]


BLOCKS = blocks()
RUN = [block for block in BLOCKS if not block.not_run]


def named(block: Block) -> str:
    """How a test's report calls it."""
    return block.where


def of(language: str, *, service: bool = False) -> list[Block]:
    """The blocks in ``language`` that a test runs, with or without a running service."""
    found = [b for b in RUN if b.language == language and b.needs_service == service]
    assert found, f"no {language} block is run: is the collection broken?"
    return found


def run(block: Block, command: list[str], folder: Path) -> None:
    """Run it where it sees the repository's files, but writes into ``folder``."""
    for entry in ROOT.iterdir():
        (folder / entry.name).symlink_to(entry)
    programs = Path(sys.executable).parent
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{block.where}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for name in set(_PICTURE.findall(block.text)):
        with Image.open(folder / name) as picture:
            picture.load()
