"""One line of JSON per request: who asked for what, and what became of it."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import sys
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from serve_app.access.settings import AuditSettings
from serve_app.access.visit import Visit

log = logging.getLogger(__name__)

# Serve's own logger: its handler writes to the replica's log file.
_SERVE_LOGGER = "ray.serve"
# Probes come every few seconds and say nothing of anybody.
_NOT_KEPT = frozenset({"/health", "/readiness"})


class AuditLog:
    """Writes the lines.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        if settings.file is None:
            self._log = logging.getLogger(_SERVE_LOGGER)
        else:
            # A logger of its own, and watched: what rotates logs may move the file away.
            self._log = logging.Logger("imagine.audit", logging.INFO)
            self._log.addHandler(AuditFile(settings.file))

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._settings.file is not None:
            for handler in self._log.handlers:
                handler.close()

    def __call__(self, visit: Visit) -> None:
        """Keep one request."""
        if self._settings.enabled and visit.route not in _NOT_KEPT:
            line = json.dumps(audit_line(visit, prompt=self._settings.prompt))
            self._log.info("%s", line, extra={"log_to_stderr": False})


class AuditFile(logging.handlers.WatchedFileHandler):
    """The file; where it cannot be written, requests go on and the service's log says so once.

    Attributes:
        lost: lines that could not be written since they last could.
    """

    lost = 0

    def _open(self) -> io.TextIOWrapper:
        # Nothing is kept back: what did not fit is not tried again with each line that follows.
        raw = io.FileIO(self.baseFilename, "a")
        return io.TextIOWrapper(cast(BinaryIO, raw), encoding="utf-8", write_through=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line; never raises."""
        before = self.lost
        try:
            super().emit(record)  # calls handleError for what goes wrong in writing
        except OSError:  # the file was moved away, and no new one can be made
            self.handleError(record)
        if before and self.lost == before:
            log.warning(
                "audit file %s: written again, %d lines are lost", self.baseFilename, before
            )
            self.lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count the line; the first of a row is told of."""
        if self.lost == 0:
            why = sys.exc_info()[1]
            log.error("audit file %s: cannot be written: %s", self.baseFilename, why)
        self.lost += 1


def audit_line(visit: Visit, *, prompt: bool) -> dict[str, Any]:
    """The line's values; the prompt only where asked for, the key only by its name."""
    line: dict[str, Any] = {
        "audit": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": visit.request_id,
        "key": visit.key,
        "address": visit.address,
        "method": visit.method,
        "route": visit.route,
        "status": visit.status,
        "code": visit.code,
        "ms": round(visit.took_s * 1000, 1),
        "bytes": visit.sent,
        "pictures": visit.pictures,
        "pools": [pool for pool, _ in visit.painted],
        "seeds": [seed for _, seed in visit.painted],
    }
    return line | {"prompt": visit.prompt} if prompt else line
