"""docs/guarantees.md names tests that exist, and the check of a run's reports can fail."""

from __future__ import annotations

import ast
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.guarantees import PAGE, last_change, outcomes, rows, skipped, stale, unproven

ROWS = rows(PAGE.read_text("utf-8"))
TEST = "tests/docs/test_x.py::test_y"
HEAD = "| promise | proven by | last figure |\n|---|---|---|\n"
GOOD = f"| it holds | `{TEST}` | 5 of 5 |"


def report(inside: str, name: str = "test_y", attributes: str = "") -> str:
    case = f'<testcase classname="tests.docs.test_x" name="{name}">{inside}</testcase>'
    return f"<testsuites><testsuite {attributes}>{case}</testsuite></testsuites>"


def test_there_are_promises() -> None:
    assert len(ROWS) >= 20


def test_a_figure_or_why_there_is_none() -> None:
    assert not [row.promise for row in ROWS if not row.figure.strip("-– ")]


@pytest.mark.parametrize(
    "test", sorted({test for row in ROWS for test in (*row.tests, *row.allowed)})
)
def test_the_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions, f"{PAGE.name} names {test}"


@pytest.mark.parametrize(
    "row",
    [
        f"| it holds | `{TEST}` |",
        f"| it holds | `{TEST}` | |",
        f"| | `{TEST}` | 5 |",
        "| it holds | | 5 |",
        "| it holds | tests/docs/test_x.py::test_y | 5 |",
        f"| it holds | `{TEST}`, and more | 5 |",
        f"| it holds | `{TEST}` `{TEST}` | 5 |",
        f"| it holds | `{TEST}`; where the machine allows: | 5 |",
        f"| it holds | where the machine allows: `{TEST}` | 5 |",
        f"| it holds | `{TEST}` | 5 | 6 |",
        f"it holds | `{TEST}` | 5",
        f"{GOOD} ",
        "| it holds | `tests/docs/test_x.py` | 5 |",
        f"{GOOD}\n{GOOD}",
    ],
)
def test_a_row_that_is_no_row_is_not_passed_over(row: str) -> None:
    assert len(rows(HEAD + GOOD)) == 1
    with pytest.raises(ValueError, match=r"guarantees\.md:[34]: "):
        rows(HEAD + row)


@pytest.mark.parametrize(
    ("reports", "how"),
    [
        ([report("")], None),
        ([report("", "test_y[a]"), report("", "test_y[b]")], None),
        ([], "not run"),
        ([report("", "test_z")], "not run"),
        ([report("<skipped/>")], "skipped"),
        ([report("<failure/>")], "failure"),
        ([report("<error/>")], "error"),
        ([report("", "test_y[a]"), report("<failure/>", "test_y[b]")], "failure, passed"),
    ],
)
def test_only_a_test_that_ran_and_passed_proves(reports: list[str], how: str | None) -> None:
    expected = [] if how is None else [f"it holds: {TEST} {how}"]
    assert unproven(HEAD + GOOD, outcomes(reports)) == expected


@pytest.mark.parametrize(
    ("inside", "how", "told"),
    [
        ("", None, False),
        ("<skipped/>", None, True),
        ("<failure/>", "failure", False),
        (None, "not run", False),
    ],
)
def test_what_a_machine_may_not_allow_is_told_and_may_not_fail(
    inside: str | None, how: str | None, told: bool
) -> None:
    other = "tests/docs/test_x.py::test_z"
    page = f"{HEAD}| it holds | `{TEST}`; where the machine allows: `{other}` | 5 |"
    reports = [report("")] + ([] if inside is None else [report(inside, "test_z")])
    ended = outcomes(reports)
    assert unproven(page, ended) == ([] if how is None else [f"it holds: {other} {how}"])
    assert skipped(page, ended) == ([f"it holds: {other}"] if told else [])


@pytest.mark.parametrize(
    ("attributes", "fresh"),
    [
        ('timestamp="2026-11-30T12:00:01+00:00"', True),
        ('timestamp="2026-11-30T14:00:01+02:00"', True),
        ('timestamp="2026-11-30T11:59:59+00:00"', False),
        ('timestamp="2026-11-29"', False),
        ("", False),
    ],
)
def test_a_report_of_other_code_proves_nothing(attributes: str, fresh: bool) -> None:
    changed = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
    lines = stale({"slow.xml": report("", attributes=attributes)}, changed)
    assert [line.partition(": begun ")[0] for line in lines] == ([] if fresh else ["slow.xml"])


def test_code_is_what_is_no_product_of_a_run(tmp_path: Path) -> None:
    for at, path in enumerate(("tests/a.py", "serve_app/b/c.py", "build/d.py", ".venv/e.py"), 1):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
        os.utime(tmp_path / path, (at, at))
    assert last_change(tmp_path) == 2
