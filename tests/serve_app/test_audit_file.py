"""An audit file that cannot be written harms no request, and is told of."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from serve_app.access.audit import AuditFile


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "", 0, text, None, None)


def test_a_full_disk_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    file = AuditFile("/dev/full")
    for number in range(3):
        file.emit(line(str(number)))
    assert file.lost == 3
    (told,) = caplog.messages
    assert told.startswith("audit file /dev/full: cannot be written: [Errno 28]")
    file.close()


def test_a_folder_that_went_away_and_came_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "audit.log"
    file = AuditFile(str(path))
    file.emit(line("one"))
    folder.rename(tmp_path / "moved")
    file.emit(line("two"))
    file.emit(line("three"))
    folder.mkdir()
    file.emit(line("four"))
    assert path.read_text() == "four\n"
    assert file.lost == 0
    assert len(caplog.messages) == 2
    assert caplog.messages[1].endswith("written again, 2 lines are lost")
    file.close()
