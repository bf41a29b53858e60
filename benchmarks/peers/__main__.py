"""``python -m benchmarks.peers``: everything for docs/benchmarks.md, half an hour on two cores.

Needs ``make peers``. Cells are kept in ``benchmarks/peers.json`` as they come: what was cut is
continued by ``--resume``, if code, versions and hardware are still the same. The page is written
from what there is. Parts can be run alone.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.peers.contestants import ROOT
from benchmarks.peers.figure import draw
from benchmarks.peers.measure import LIGHT, Effort, Measurer
from benchmarks.peers.report import page
from benchmarks.peers.results import MixedError, Results, conditions
from loadtest.launching import PortTaken

PARTS = ("curve", "saturated", "loads", "light")
RESULTS = ROOT / "benchmarks" / "peers.json"
PAGE, PICTURE = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "pictures" / "benchmarks.png"
VERSIONS = """
import json; from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("litserve", "bentoml")}))
"""


def peer_versions() -> dict[str, str]:
    """Of the packages in the peers' environment.

    Raises:
        SystemExit: there is none.
    """
    python = ROOT / ".venv-peers" / "bin" / "python"
    if not python.exists():
        raise SystemExit("no .venv-peers: run `make peers` first")
    done = subprocess.run([str(python), "-c", VERSIONS], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def jobs(measurer: Measurer, args: argparse.Namespace) -> list[tuple[str, Callable[[], None]]]:
    """What to do, in order: saturated turns, shares of what each showed, light pools."""
    found: list[tuple[str, Callable[[], None]]] = []
    if "curve" in args.part:
        found.append(("batch curve", measurer.curve))
    for part, measure in (("saturated", measurer.saturated), ("loads", measurer.loaded)):
        if part in args.part:
            found += [
                (f"{who.name}, {part}", partial(measure, who, turn))
                for turn in range(args.turns)
                for who in measurer.everyone(turn, args.only)
            ]
    if "light" in args.part:
        found += [(f"{p} pools, {i} ingress", partial(measurer.light, p, i)) for p, i in LIGHT]
    return found


def main() -> None:
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", nargs="*", default=[], help="servers whose names contain this")
    parser.add_argument("--turns", type=int, default=3, help="servers take turns, so many times")
    parser.add_argument("--requests", type=int, default=Effort.requests, help="of saturated cells")
    parser.add_argument("--seconds", type=float, default=Effort.seconds, help="of open-loop cells")
    parser.add_argument("--minutes", type=float, default=60, help="start nothing new after that")
    parser.add_argument("--resume", action="store_true", help="measure only what is missing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args()
    # A time limit from outside then ends as Ctrl-C does: servers stopped, the page written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    try:
        results = Results.open(args.results, args.resume, conditions(peer_versions()))
    except MixedError as error:
        raise SystemExit(
            f"{error}. Begin anew without --resume, or with other --results."
        ) from None
    folder = ROOT / "build" / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    effort = Effort(requests=args.requests, seconds=args.seconds)
    measurer = Measurer(results, effort, folder, console)
    todo, until = jobs(measurer, args), time.monotonic() + 60 * args.minutes
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    broken = 0
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            task = progress.add_task("peers", total=len(todo))
            for name, job in todo:
                if time.monotonic() > until:
                    console.print("time is up: go on with --resume")
                    break
                progress.update(task, description=name)
                try:
                    job()
                except PortTaken as error:
                    raise SystemExit(str(error)) from None
                except Exception:  # shown; the others are measured all the same
                    console.print_exception()
                    broken += 1
                progress.advance(task)
    except KeyboardInterrupt:
        console.print("cut: go on with --resume")
    draw(results, args.picture)
    args.page.write_text(page(results, args.picture), encoding="utf-8")
    console.print(f"{args.results}, {args.page}, {args.picture}")
    if broken:
        raise SystemExit(f"{broken} of {len(todo)} jobs broke: see above")


if __name__ == "__main__":
    main()
