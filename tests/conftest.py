"""How pytest-xdist shares the tests out between processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

# They use one artifact, which takes a minute to compile and lies in one place.
_OF_ONE_ARTIFACT = ("tests/compile/test_path.py", "tests/compile/test_start_benchmark.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share a process, as they share its fixtures."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return _OF_ONE_ARTIFACT[0] if file in _OF_ONE_ARTIFACT else file

    return Scheduling(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    """One identifier for each of Schemathesis' operations: xdist runs one test of each.

    Under pytest 9.2 all of a function's have the function's.
    """
    label = getattr(item, "operation_label", None)
    if label is not None and not item.nodeid.endswith("]"):
        item._id = replace(item.id, params=label)
