"""Which tests docs/guarantees.md names, and whether a run's reports say that they passed.

``python -m tests.docs.guarantees build/reports``: exits with 1 where a promise was not proven.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "guarantees.md"
_TEST = r"`(tests/[\w/]+\.py::\w+)`"
_ROW = re.compile(
    rf"\| (?P<promise>[^|]*[^| ]) \| (?P<tests>{_TEST}(, {_TEST})*)"
    rf"(; where the machine allows: (?P<allowed>{_TEST}(, {_TEST})*))? \| (?P<figure>[^|]*[^| ]) \|"
)
_HEADING = ("| promise | proven by | last figure |", "|---|---|---|")


@dataclass(frozen=True)
class Row:
    """One promise.

    Attributes:
        promise: in words.
        tests: that prove it, as ``tests/path.py::name``.
        allowed: those that prove more of it and may be skipped where they cannot run.
        figure: last measured; or a dash and why there is none.
    """

    promise: str
    tests: list[str]
    allowed: list[str]
    figure: str


def rows(page: str) -> list[Row]:
    """Every promise of ``page``.

    Raises:
        ValueError: a line of a table is neither its heading nor a promise with tests and a
            figure; or a promise stands there twice.
    """
    found: dict[str, Row] = {}
    for number, line in enumerate(page.splitlines(), start=1):
        if line in _HEADING or not (line.lstrip().startswith("|") or re.search(_TEST, line)):
            continue
        where, row = f"{PAGE.name}:{number}", _ROW.fullmatch(line)
        if row is None:
            raise ValueError(f"{where}: not '| promise | `tests`, … | figure |': {line}")
        if row["promise"] in found:
            raise ValueError(f"{where}: promised twice: {row['promise']}")
        tests, allowed = (re.findall(_TEST, row[key] or "") for key in ("tests", "allowed"))
        found[row["promise"]] = Row(row["promise"], tests, allowed, row["figure"])
    return list(found.values())


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


def stale(reports: Mapping[str, str], changed: float) -> list[str]:
    """One line per report (name -> XML) whose run began before the Unix time ``changed``."""
    lines = []
    for name, report in reports.items():
        for suite in ElementTree.fromstring(report).iter("testsuite"):
            began = suite.attrib.get("timestamp", "at an unknown time")
            if "T" not in began or datetime.fromisoformat(began).timestamp() < changed:
                lines.append(f"{name}: begun {began}, before the code was last changed")
    return lines


def last_change(root: Path) -> float:
    """When a Python file of the repository was last changed; a checkout changes what differs."""
    folders = [one for one in root.iterdir() if one.name[0] != "." and one.name != "build"]
    return max(path.stat().st_mtime for one in folders for path in one.rglob("*.py"))


def unproven(page: str, ended: Mapping[str, set[str]]) -> list[str]:
    """One line per promise that the run did not prove."""
    lines = []
    for row in rows(page):
        for test in (*row.tests, *row.allowed):
            how = ended.get(test, {"not run"})
            if how != {"passed"} and not (test in row.allowed and how == {"skipped"}):
                lines.append(f"{row.promise}: {test} {', '.join(sorted(how))}")
    return lines


def skipped(page: str, ended: Mapping[str, set[str]]) -> list[str]:
    """One line per test that this machine did not allow."""
    return [
        f"{row.promise}: {test}"
        for row in rows(page)
        for test in row.allowed
        if ended.get(test) == {"skipped"}
    ]


def main() -> int:
    """Check the reports in the folder that the command line names."""
    files = sorted(Path(sys.argv[1]).glob("*.xml"))
    reports = {file.name: file.read_text("utf-8") for file in files}
    page = PAGE.read_text("utf-8")
    ended = outcomes(reports.values())
    lines = [*stale(reports, last_change(ROOT)), *unproven(page, ended)]
    for line in skipped(page, ended):
        print(f"NOT SHOWN HERE: {line} was skipped", file=sys.stderr)
    for line in lines:
        print(f"not proven: {line}", file=sys.stderr)
    if not lines:
        print(f"{len(rows(page))} promises, each proven by the tests just run")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
