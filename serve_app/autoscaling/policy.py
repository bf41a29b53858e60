"""Ray Serve's application-level autoscaling policy: a thin, exception-proof adapter.

Named in ``serve_config.yaml``. Serve carries the class into its controller by value, so that this
module imports nothing of ours at its top: what is missing must end in a log line there, not in a
controller that cannot start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger(__name__)

_POLL_S = 2.0
_MANY = 1_000_000
_FORGOTTEN_S = 30.0


class AutoscalingPolicy:
    """Replica counts for every pool.

    A pool that is not elastic has replicas where its hardware is (``presence.decide``); elastic
    pools have what the planner wants (``planner.plan``), which counts what the others do.

    Serve calls this in its control loop, ten times a second, where an exception or a wait would
    freeze every application. So a call only hands over what a daemon thread has decided, and any
    fault is logged once, counted, and leaves every count as it is.

    Args:
        pools: the ``pools`` of ``args``.
        planner: ``PlannerOptions`` by name, without ``slo_s``, which is the ingress' own.
        look: sees the cluster; may block and raise. For tests.
        board: where the ingress' word is; for tests.
        poll_s: seconds between two decisions.
    """

    def __init__(
        self,
        pools: Mapping[str, Any] | None = None,
        planner: Mapping[str, float] | None = None,
        look: Callable[[], Any] | None = None,
        board: Any = None,
        poll_s: float = _POLL_S,
    ) -> None:
        self._raw_pools = pools or {}
        self._options = dict(planner or {})
        self._look = look
        self._board = board
        self._poll_s = poll_s
        self._decider: Any = None
        self._replicas: dict[str, tuple[int, int, int, int]] = {}
        self._stats: dict[str, dict[str, float]] = {}
        self._states: dict[str, Any] = {}
        self._app_name = ""
        self._targets: dict[str, int] | None = None
        self._complained: set[str] = set()
        self._thread: threading.Thread | None = None
        self._called_at = time.monotonic()
        self.faults = 0

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, Any]]:
        """Target counts by deployment id; a deployment left out keeps its count. Never raises."""
        try:
            self._called_at = time.monotonic()
            self._hear(contexts)
            self._start()
            targets = self._targets
            if targets is None:
                return {}, {}
            # Serve forgets the state of a deployment that is not given back.
            states = {key: self._states.get(key.name, {}) for key in contexts}
            return changes(contexts, targets), states
        except Exception as error:
            self._complain("cannot hand over replica counts", error)
            return {}, {}

    def poll(self) -> None:
        """Look and decide once; never raises. On failure the last decision stays."""
        try:
            if self._board is None:
                self._board = self._make_board()
            if self._decider is None:
                self._decider = self._make_decider()
            self._targets, self._states = self._decider.decide(
                self._replicas, self._stats, faults=self.faults
            )
        except Exception as error:
            self._complain("cannot decide replica counts", error)
            self._tell_of_faults()

    def _tell_of_faults(self) -> None:
        """Leave the last decision on the board again, of its own time, with the faults since."""
        try:
            if self._board is not None:
                last = self._board.decision() or {"at": 0.0, "pools": {}}
                self._board.decide({**last, "faults": self.faults})
        except Exception as error:
            self._log("cannot tell of faults", error)

    def _make_board(self) -> Any:
        from serve_app.autoscaling.board import Board

        return Board(self._app_name)

    def _make_decider(self) -> Any:
        from serve_app.autoscaling.decider import Decider
        from serve_app.autoscaling.presence import look_at_cluster, pool_needs

        return Decider(
            pool_needs(self._raw_pools),
            self._options,
            self._look or look_at_cluster,
            self._board,
        )

    def _hear(self, contexts: Mapping[Any, Any]) -> None:
        for key, context in contexts.items():
            self._app_name = getattr(key, "app_name", self._app_name)
            self._replicas[key.name] = (
                int(context.current_num_replicas),
                int(context.target_num_replicas),
                int(getattr(context, "capacity_adjusted_max_replicas", _MANY)),
                int(getattr(context, "capacity_adjusted_min_replicas", 0)),
            )
            self._stats[key.name] = means(getattr(context, "aggregated_metrics", None))

    def _start(self) -> None:
        # Not in the constructor: the policy may be built in one process and run in another.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="autoscaling", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        # Serve makes a new policy on every rebuild and merely drops the old one.
        pause = threading.Event()
        while time.monotonic() - self._called_at < _FORGOTTEN_S:
            self.poll()
            pause.wait(self._poll_s)

    def _complain(self, what: str, error: Exception) -> None:
        self.faults += 1
        self._log(what, error)

    def _log(self, what: str, error: Exception) -> None:
        """Once for each text."""
        text = f"{what}: {type(error).__name__}: {error}"
        if text not in self._complained and len(self._complained) < 100:
            self._complained.add(text)
            log.warning("autoscaling policy: %s; every replica count stays as it is", text)


def changes(contexts: Mapping[Any, Any], targets: Mapping[str, int]) -> dict[Any, int]:
    """``targets`` by deployment id, without those that should not be said.

    A pool that is and stays at 0 is left out: Serve starts a replica for any deployment at 0
    that is named here and has a request waiting, whatever number is given.
    """
    found = {}
    for deployment, context in contexts.items():
        target = targets.get(deployment.name)
        if target is None:
            continue
        at_zero = context.current_num_replicas == 0 and context.target_num_replicas == 0
        if target > 0 or not at_zero:
            found[deployment] = target
    return found


def means(metrics: Any) -> dict[str, float]:
    """What a pool's replicas recorded (``PoolReplica.record_autoscaling_stats``), averaged."""
    return {
        name: sum(by_replica.values()) / len(by_replica)
        for name, by_replica in (metrics or {}).items()
        if by_replica
    }
