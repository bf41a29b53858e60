"""The ingress' side of autoscaling: tells the policy what is wanted, hears what was decided."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from serve_app.autoscaling.meter import DemandMeter
from serve_app.routing.snapshot import PoolSnapshot
from serve_app.routing.work import Work

log = logging.getLogger(__name__)

PERIOD_S = 1.0


class IngressBoard(Protocol):
    """The ingress' half of the board; ``Board`` is one."""

    def report(self, who: str, report: dict[str, Any]) -> None:
        """See ``Board.report``."""

    def decision(self) -> dict[str, Any] | None:
        """See ``Board.decision``."""


class Reporter:
    """Reports demand and reads decisions once a second, in a thread; never raises from it.

    Args:
        who: this ingress replica.
        board: where word is left.
        meter: what arrived.
        pools: view of the pools, safe to take in another thread.
        peers: ingress replicas, this one included.
        default: the work of the model's default request.
        slo_s: the latency objective in force.
        decided: told the newest known decision after each exchange; must not raise.
    """

    def __init__(
        self,
        who: str,
        board: IngressBoard,
        meter: DemandMeter,
        pools: Callable[[], Sequence[PoolSnapshot]],
        peers: Callable[[], int],
        default: Work,
        slo_s: Callable[[], float],
        decided: Callable[[dict[str, Any]], None] = lambda decision: None,
    ) -> None:
        self._who = who
        self._board = board
        self._meter = meter
        self._pools = pools
        self._peers = peers
        self._default = default
        self._slo_s = slo_s
        self._decided = decided
        self._failing = False
        self._decision: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._run, name="demand", daemon=True)

    @property
    def decision(self) -> dict[str, Any] | None:
        """The newest known decision."""
        return self._decision

    def start(self) -> None:
        """Begin reporting."""
        self._thread.start()

    def exchange(self) -> None:
        """Report and read once; never raises. The first failure of a row is logged."""
        try:
            report = demand_report(
                self._meter,
                self._pools(),
                self._default,
                slo_s=self._slo_s(),
                peers=self._peers(),
                now=time.monotonic(),
            )
            self._board.report(self._who, report)
            self._decision = self._board.decision()
        except Exception as error:
            if not self._failing:
                log.warning("cannot exchange word with the autoscaling policy: %s", error)
            self._failing = True
        else:
            self._failing = False
        if self._decision is not None:  # also an old one: how old it is, is shown too
            self._decided(self._decision)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self.exchange()
            pause.wait(PERIOD_S)


def demand_report(
    meter: DemandMeter,
    pools: Sequence[PoolSnapshot],
    default: Work,
    *,
    slo_s: float,
    peers: int,
    now: float,
) -> dict[str, Any]:
    """What one ingress replica sees, as JSON values.

    ``backlog`` is work that waits for a place in a batch, in row-steps; ``capacity`` row-steps a
    second of one replica within the objective, ``null`` where no profile is known.
    """
    row_steps_per_s, pictures_per_s = meter.rates(now)
    return {
        "row_steps_per_s": row_steps_per_s,
        "pictures_per_s": pictures_per_s,
        # A snapshot's load is that of all ingress replicas.
        "backlog": meter.held_row_steps + sum(_queued(pool) for pool in pools) / peers,
        "pinned": meter.held_pins,
        "p95_s": meter.p95_s(now, default),
        "slo_s": slo_s,
        "default_row_steps": default.row_steps,
        "pools": {
            pool.name: {
                "capacity": None
                if pool.profile is None
                else pool.profile.images_per_minute / 60 * default.row_steps,
                "price": pool.price_per_hour,
            }
            for pool in pools
        },
    }


def _queued(pool: PoolSnapshot) -> float:
    """Row-steps sent to the pool beyond what fits in its batches."""
    if pool.load.rows <= 0 or pool.speed is None:
        return 0.0
    beyond = max(0.0, pool.load.rows - pool.ready * pool.speed.max_rows)
    return pool.load.row_steps * beyond / pool.load.rows
