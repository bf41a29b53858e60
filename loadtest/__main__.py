"""``python -m loadtest``: load of a given shape, or the search for break points."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from loadtest import breaking_command, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status (see ``loadtest.exits``)."""
    parser = argparse.ArgumentParser(prog="python -m loadtest")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run_command.add_to(commands)
    breaking_command.add_to(commands)
    options = parser.parse_args(arguments)
    return int(options.command(options))


if __name__ == "__main__":
    sys.exit(main())
