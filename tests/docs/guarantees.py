"""Which tests docs/guarantees.md names, and whether a run's reports say that they passed.

``python -m tests.docs.guarantees build/reports``: exits with 1 where a promise was not proven.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "guarantees.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py::\w+)`")
_ROW = re.compile(r"^\|(?!-)(?P<promise>[^|]+)\|(?P<tests>[^|]+)\|(?P<figure>[^|]*)\|$")
_HEADING = "promise"


def promises(page: str) -> dict[str, list[str]]:
    """Promise -> the tests that prove it, as ``tests/path.py::name``."""
    rows = filter(None, map(_ROW.match, page.splitlines()))
    found = {row["promise"].strip(): _TEST.findall(row["tests"]) for row in rows}
    found.pop(_HEADING, None)
    return found


def outcomes(reports: Iterable[str]) -> dict[str, set[str]]:
    """Test -> how its cases ended (passed, skipped, failed), from JUnit XML as pytest writes it."""
    found: dict[str, set[str]] = defaultdict(set)
    for report in reports:
        # Our own pytest wrote it just now.
        for case in ElementTree.fromstring(report).iter("testcase"):
            path = case.attrib["classname"].replace(".", "/")
            name = case.attrib["name"].partition("[")[0]
            ends = {child.tag for child in case} & {"skipped", "failure", "error"}
            found[f"{path}.py::{name}"].add(ends.pop() if ends else "passed")
    return found


def unproven(page: str, ended: Mapping[str, set[str]]) -> list[str]:
    """One line per promise that the run did not prove."""
    lines = []
    for promise, tests in promises(page).items():
        for test in tests:
            how = ended.get(test, {"not run"})
            if how != {"passed"}:
                lines.append(f"{promise}: {test} {', '.join(sorted(how))}")
    return lines


def main() -> int:
    """Check the reports in the folder that the command line names."""
    files = sorted(Path(sys.argv[1]).glob("*.xml"))
    page = PAGE.read_text("utf-8")
    lines = unproven(page, outcomes(file.read_text("utf-8") for file in files))
    for line in lines:
        print(f"not proven: {line}", file=sys.stderr)
    if not lines:
        print(f"{len(promises(page))} promises, each proven by the tests just run")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
