"""``python -m loadtest.soak``: run the service for long and see what grows.

Starts ``serve run`` with the config, asks mixed requests, looks at every process again and again,
and writes curves. Ctrl-C ends it early, with the report of what was seen so far.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loadtest.launching import PortTaken, check_port, end
from loadtest.soak import mix
from loadtest.soak.processes import family, ray_objects, sizes
from loadtest.soak.record import WINDOWS, Record, Sample
from loadtest.soak.report import write

ROOT = Path(__file__).resolve().parents[2]
_READY_WITHIN_S = 300.0
_STOP_WITHIN_S = 30.0
# Looks at the processes: more cost time that the service needs.
_LOOKS = 20 * WINDOWS
_LOOK_S = 5.0


class Soak:
    """Clients that ask one after the other, and what they and the looks have seen.

    Args:
        url: of the service.
        pid: of the process that has started all of it.
        clients: how many ask at once.
    """

    def __init__(self, url: str, pid: int, clients: int) -> None:
        self.record = Record()
        self._url = url
        self._pid = pid
        self._numbers = count()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._began = time.monotonic()
        self._start = mix.picture()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def run(self, seconds: float, progress: Progress) -> None:
        """Ask and look for so long; ``KeyboardInterrupt`` ends it early."""
        task = progress.add_task("soak", total=seconds, told="")
        for thread in self._threads:
            thread.start()
        every_s = max(_LOOK_S, seconds / _LOOKS)
        try:
            while (passed := time.monotonic() - self._began) < seconds:
                self._look()
                told = f"{self.record.requests} requests, {len(self.record.unexpected)} unexpected"
                progress.update(task, completed=passed, told=told)
                self._over.wait(min(every_s, seconds - passed))
            progress.update(task, completed=seconds)
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(_STOP_WITHIN_S)

    def _look(self) -> None:
        processes = family(self._pid)
        try:
            objects: int | None = ray_objects(processes)
        except (LookupError, httpx.HTTPError):
            objects = None
        at = time.monotonic() - self._began
        self.record.samples.append(Sample(at, self.record.requests, sizes(processes), objects))

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._over.is_set():
                with self._lock:
                    index = next(self._numbers)
                one, began = mix.kind(index, self._start), time.monotonic()
                try:
                    status = mix.send(client, one)
                except httpx.TransportError as error:
                    status = type(error).__name__
                self._keep(one, status, began)

    def _keep(self, one: mix.Kind, status: str, began: float) -> None:
        now = time.monotonic()
        expected = mix.LEFT if one.expected is None else str(one.expected)
        with self._lock:
            self.record.statuses[status] += 1
            if status != expected:
                self.record.unexpected.append(f"{status} instead of {expected}: {one.body}"[:200])
            elif one.plain:
                self.record.latencies.append((now - self._began, now - began))


@contextmanager
def served(config: Path, log: Path) -> Iterator[tuple[str, int]]:
    """``serve run`` with the config: its URL and process id."""
    options = yaml.safe_load(config.read_text(encoding="utf-8"))["http_options"]
    url = f"http://127.0.0.1:{options['port']}"
    try:
        check_port(options["port"], options.get("host", "127.0.0.1"))
    except PortTaken as error:
        raise SystemExit(f"{config}: http_options.port: {error}") from None
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the clients first; a group to end
            # Else a token that this account has for other clusters guards the dashboard.
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        )
    try:
        _wait_ready(process, url, log)
        yield url, process.pid
    finally:
        end(process, _STOP_WITHIN_S)


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"serve run ended: see {log}")
        try:
            if httpx.get(f"{url}/readiness", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise SystemExit(f"{url} is not ready after {_READY_WITHIN_S:g} s: see {log}")


def main(arguments: list[str] | None = None) -> int:
    """Run it; 1 when something was not flat."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--config", type=Path, default=ROOT / "serve_config.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "soak")
    told = parser.parse_args(arguments)
    told.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
    )
    console.print(f"starting {told.config} …")
    with served(told.config, told.out / "serve.log") as (url, pid):
        soak = Soak(url, pid, told.clients)
        try:
            with Progress(*columns, console=console) as progress:
                soak.run(60 * told.minutes, progress)
        except KeyboardInterrupt:
            console.print("ended early: the report is of what was seen so far")
        paths = write(soak.record, told.out)
    problems = soak.record.problems()
    for problem in problems:
        console.print(f"not flat: {problem}", markup=False)
    verdict = "NOT FLAT" if problems else "flat"
    console.print(f"{soak.record.requests} requests, {verdict}; {', '.join(map(str, paths))}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
