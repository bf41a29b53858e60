"""Live replica counts, polled from Ray Serve in a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from deployments.trouble import one_line
from serve_app.routing.snapshot import PoolState

log = logging.getLogger(__name__)

# Serve routes to a replica on a node that drains until its successor runs, and to one that its
# restarted controller has yet to find again: it takes none from the routers before it has looked.
_READY = ("RUNNING", "PENDING_MIGRATION", "RECOVERING")
_UPDATING = ("UPDATING",)


class Availability:
    """Keeps the newest pool states; reading them never blocks.

    While looking fails (e.g. the controller restarts) the last known states stay in force:
    replicas go on serving without the controller. The first failure of a row is logged.

    Args:
        look: returns the states by pool name; may block, may raise.
        interval_s: seconds between two looks.
    """

    def __init__(self, look: Callable[[], Mapping[str, PoolState]], interval_s: float) -> None:
        self._look = look
        self._interval_s = interval_s
        self._states: Mapping[str, PoolState] = {}
        self._seen_at: float | None = None
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pool-availability", daemon=True)

    def start(self) -> None:
        """Begin polling; the first look happens at once, in the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End polling; returns at once."""
        self._stop.set()

    def states(self) -> Mapping[str, PoolState]:
        """The newest known states by pool name; empty before the first look."""
        return self._states

    @property
    def age_s(self) -> float | None:
        """Seconds since the last successful look; ``None`` before the first."""
        return None if self._seen_at is None else time.monotonic() - self._seen_at

    def poll(self) -> None:
        """Look once; never raises."""
        try:
            self._states = dict(self._look())
        except Exception as error:
            if not self._failing:
                log.warning("cannot read the pools' state, keeping the last known: %s", error)
            self._failing = True
        else:
            self._failing = False
            self._seen_at = time.monotonic()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.poll()
            self._stop.wait(self._interval_s)


def serve_states(app_name: str, trouble: Callable[[str], str]) -> dict[str, PoolState]:
    """Ray Serve's view of every deployment of ``app_name``; blocks some 25 ms.

    Args:
        app_name: the Serve application.
        trouble: why replicas of a pool that are starting are not ready yet; ``""``: not known.

    Raises:
        LookupError: Serve does not list the application, or none of its deployments (just now).
        Exception: whatever Ray raises when the controller cannot be asked.
    """
    from ray import serve

    application = serve.status().applications.get(app_name)
    if application is None:
        raise LookupError(f"Serve does not list the application {app_name!r}")
    if not application.deployments:  # of a config that could not be built: what was there runs on
        raise LookupError(f"Serve lists no deployments of {app_name!r}: {application.message}")
    states = {}
    for name, deployment in application.deployments.items():
        counts = {str(getattr(k, "value", k)): n for k, n in deployment.replica_states.items()}
        states[name] = PoolState(
            ready=sum(counts.get(state, 0) for state in _READY),
            updating=sum(counts.get(state, 0) for state in _UPDATING),
            draining=counts.get("STOPPING", 0),
            starting=counts.get("STARTING", 0),
            status=str(getattr(deployment.status, "value", deployment.status)),
            message=deployment.message,
            trouble=trouble_in(deployment.message)
            or (trouble(name) if counts.get("STARTING") else ""),
        )
    return states


def trouble_in(message: str) -> str:
    """Why a replica could not start: the last line of the traceback that Serve tells, if any."""
    if "failed to start" not in message:
        return ""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # The exception's class with its modules says nothing to those who read it.
    where, found, why = lines[-1].partition(": ")
    return one_line(f"{where.rpartition('.')[2]}{found}{why}")
