"""What the commands have in common: address, key, Ctrl-C, files."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

URL = "http://127.0.0.1:8000"


def add_service(parser: argparse.ArgumentParser) -> None:
    """The options that name the service."""
    parser.add_argument("--url", type=_url, default=URL, help=f"of the service (default: {URL})")
    parser.add_argument(
        "--key-file", type=Path, help="file that holds the API key (or set IMAGINE_API_KEY)"
    )
    parser.add_argument(
        "--timeout", type=positive, default=60.0, help="seconds until a request counts as failed"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides arrivals and pictures")
    parser.add_argument("--out", type=Path, help="folder for the report's files")


def api_key(options: argparse.Namespace) -> str | None:
    """The key, if one is given.

    Raises:
        OSError: its file cannot be read.
    """
    if options.key_file is None:
        return os.environ.get("IMAGINE_API_KEY")
    return str(options.key_file.read_text(encoding="utf-8")).strip()


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"got {text}; allowed: a number above 0")
    return value


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"got {text!r}; it starts with http:// or https://")
    return text.rstrip("/")


@contextmanager
def interruptible(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C sets ``stop`` instead of raising; a second one raises."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, first)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def started_at() -> str:
    """Now, for reports."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON for people and programs; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
