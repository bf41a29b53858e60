"""``python -m kuberay render`` writes the generated manifests; ``--check`` compares them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from kuberay.fleet import HERE, load
from kuberay.render import drift, project_version, rendered
from kuberay.tags import stale
from serve_app.validation import SettingsError


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status is 1 on drift and 2 on settings that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m kuberay", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render", help="write what is generated")
    render.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    render.add_argument("--root", type=Path, default=HERE, help="where to write (kuberay/)")
    options = parser.parse_args(argv)
    # Paths are for copying: not wrapped, not coloured.
    out = Console(soft_wrap=True, highlight=False)
    try:
        files = rendered(load())
    except SettingsError as error:
        out.print(str(error), markup=False)
        return 2
    if options.check:
        version = project_version()
        problems = [
            *(f"{path}: run `python -m kuberay render`" for path in drift(files, options.root)),
            *(f"{where}; the project's is {version}" for where in stale(options.root, version)),
        ]
        for problem in problems:
            out.print(problem, markup=False)
        return 1 if problems else 0
    for path, text in files.items():
        target = options.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        out.print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
