"""How pytest-xdist shares the tests out between processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

# Folders whose session fixtures are dear and write to a place of their own: one process each.
_TOGETHER = ("tests/compile/",)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share a process, as they share its fixtures."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = next((it for it in _TOGETHER if nodeid.startswith(it)), None)
            return folder or super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    """One identifier for each of Schemathesis' operations: xdist runs one test of each.

    Under pytest 9.2 all of a function's have the function's.
    """
    label = getattr(item, "operation_label", None)
    if label is not None and not item.nodeid.endswith("]"):
        item._id = replace(item.id, params=label)
