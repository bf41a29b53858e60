"""docs/guarantees.md names tests that exist, and the check of a run's reports can fail."""

from __future__ import annotations

import ast

import pytest

from tests.docs.blocks import ROOT
from tests.docs.guarantees import PAGE, outcomes, promises, unproven

PROMISES = promises(PAGE.read_text("utf-8"))
TEST = "tests/docs/test_x.py::test_y"
PAGE_OF_ONE = f"| promise | proven by | last figure |\n|---|---|---|\n| it holds | `{TEST}` | |\n"


def report(inside: str, name: str = "test_y") -> str:
    case = f'<testcase classname="tests.docs.test_x" name="{name}">{inside}</testcase>'
    return f"<testsuites><testsuite>{case}</testsuite></testsuites>"


def test_every_promise_has_a_proof() -> None:
    assert len(PROMISES) >= 20
    assert not [promise for promise, tests in PROMISES.items() if not tests]


@pytest.mark.parametrize("test", sorted({t for tests in PROMISES.values() for t in tests}))
def test_the_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions, f"{PAGE.name} names {test}"


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
    assert unproven(PAGE_OF_ONE, outcomes(reports)) == expected
