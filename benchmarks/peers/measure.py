"""What is measured of each server, turn by turn."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.peers.contestants import (
    OURS_LEAN,
    PLAIN,
    ROOT,
    Contestant,
    config,
    contestants,
    serving,
)
from benchmarks.peers.load import Client, Order, Outcome
from benchmarks.peers.processes import COMMON, URL, Running, StartError, running
from benchmarks.peers.results import Results

LOADS = (50, 80, 95)
# Few steps are asked for often, many now and then. Static batching fares worse the more step counts
# there are: three are few.
STEPS, WEIGHTS = (4, 8, 16), (0.3, 0.5, 0.2)
CONCURRENCY = (1, 8, 64, 512)
FEWEST, ROUNDS = 64, 2  # one-step pictures in all, and by each client
SIDES = {64: 16, 128: 16, 256: 8}  # pixels, and how many pictures
IDLE_S = 5.0
# Pools and ingress replicas.
LIGHT = ((1, 1), (10, 1), (10, 4), (50, 1))
STOCK = "the stock pipeline"


@dataclass(frozen=True)
class Effort:
    """How long it may take.

    Attributes:
        requests: in a saturated cell.
        clients: that saturate.
        seconds: of an open-loop cell.
        alone: requests of a single client.
    """

    requests: int = 128
    clients: int = 32
    seconds: float = 15.0
    alone: int = 30


def mixed(count: int, seed: int) -> list[Order]:
    """Orders of mixed steps; the same for the same seed."""
    chance = random.Random(seed)
    return [Order(i, chance.choices(STEPS, WEIGHTS)[0]) for i in range(count)]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of a Poisson process within ``seconds``, given that it has as many as expected.

    So many independent uniform times have that distribution. The number of an unconditioned process
    varies: of 150 by a twelfth, which near the capacity decides how long all wait.
    """
    chance = random.Random(seed)
    return sorted(chance.uniform(0, seconds) for _ in range(max(1, round(rate * seconds))))


def told(outcome: Outcome) -> dict[str, object]:
    """An outcome as a cell keeps it."""
    return {
        "rate": round(outcome.rate, 3),
        "latencies_ms": [round(ms, 1) for ms in outcome.latencies],
        "errors": outcome.errors,
    }


class Measurer:
    """Runs cells that are not there yet.

    Args:
        results: gets each cell.
        effort: how long it may take.
        folder: for configs and logs.
        console: says what goes on.
    """

    def __init__(self, results: Results, effort: Effort, folder: Path, console: Console) -> None:
        self._results, self._effort = results, effort
        self._folder, self._console = folder, console
        self._client = Client(URL)

    def everyone(self, turn: int, only: Sequence[str] = ()) -> list[Contestant]:
        """All servers, or those whose names contain one of ``only``; each turn starts elsewhere."""
        found = contestants(self._folder)
        found = [c for c in found if not only or any(part in c.name for part in only)]
        return found if turn % 2 == 0 else found[::-1]

    def saturated(self, contestant: Contestant, turn: int) -> None:
        """Start, memory, one client, and as much as it can do."""
        kinds = ["start", "alone", "equal", "mixed"]
        if turn == 0:
            kinds += ["concurrency", "size"]
        if contestant.name == OURS_LEAN:
            kinds = ["start"]
        self._run(contestant, turn, kinds)

    def loaded(self, contestant: Contestant, turn: int) -> None:
        """Shares of the best static batching's capacity."""
        if contestant.name == OURS_LEAN:
            return
        loads = LOADS[:1] if contestant.name == PLAIN else LOADS
        self._run(contestant, turn, [f"load {load}" for load in loads])

    def light(self, pools: int, ingress: int) -> None:
        """Our front with so many pools that paint nothing."""
        name = f"light-{pools}-{ingress}"
        application = {
            "name": name,
            "route_prefix": "/",
            "import_path": "benchmarks.peers.light:build",
            "args": {"pools": pools, "ingress": ingress},
        }
        command = serving(self._folder, config([application]))
        self._run(Contestant(f"{pools} pools, {ingress} ingress", command), 0, ["light"])

    def curve(self) -> None:
        """The stock pipeline by pictures per call, in a process of its own."""
        if not self._results.has("curve", STOCK, 0):
            command = [sys.executable, "-m", "benchmarks.peers.curve"]
            environment = os.environ | COMMON
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
            )
            self._results.add("curve", STOCK, 0, images_per_s=json.loads(done.stdout))

    def capacity(self, turn: int) -> float:
        """Pictures a second of the best static batching, mixed steps, in this turn.

        Raises:
            LookupError: none was measured.
        """
        batching = {c.name for c in contestants(self._folder) if c.batches}
        cells = [c for c in self._results.of("mixed") if c["server"] in batching]
        rates = [cell["rate"] for cell in cells if cell["turn"] == turn]
        if not rates:
            raise LookupError(
                f"no static batching was measured in turn {turn}; run the part 'saturated' first"
            )
        return float(max(rates))

    def _run(self, contestant: Contestant, turn: int, kinds: Sequence[str]) -> None:
        """The kinds that are missing, in one run of the server."""
        missing = [k for k in kinds if not self._results.has(k, contestant.name, turn)]
        if not missing:
            return
        log = self._folder / f"{contestant.name.replace(' ', '_')}.log"
        try:
            with running(contestant, log) as server:
                asyncio.run(self._client.closed_loop(mixed(8, 1), 8))  # warm
                for kind in missing:
                    self._console.print(f"turn {turn}, {contestant.name}: {kind}")
                    self._cell(contestant, turn, kind, server)
        except StartError as error:
            self._console.print(str(error))
            self._results.add("failed", contestant.name, turn, error=str(error))

    def _cell(self, contestant: Contestant, turn: int, kind: str, server: Running) -> None:
        effort, client = self._effort, self._client
        measured: dict[str, object]
        if kind == "start":
            pss, rss = server.memory_mb()
            measured = {
                "cold_s": round(server.cold_s, 2),
                "pss_mb": round(pss),
                "rss_mb": round(rss),
                "processes": server.count(),
                "by_kind": {k: round(v) for k, v in server.memory_by_kind().items()}
                if contestant.ours
                else {},
            }
        elif kind == "alone":
            orders = [Order(seed, steps=1) for seed in range(effort.alone)]
            outcome = asyncio.run(client.closed_loop(orders, 1))
            beyond = np.subtract(outcome.latencies, outcome.models)
            measured = told(outcome) | {
                "beyond_ms": [round(float(ms), 2) for ms in beyond],
                "model_ms": [round(ms, 2) for ms in outcome.models],
            }
        elif kind in ("equal", "mixed"):
            orders = mixed(effort.requests, 7 + turn)
            if kind == "equal":
                orders = [Order(seed) for seed in range(effort.requests)]
            measured = told(asyncio.run(client.closed_loop(orders, effort.clients)))
        elif kind.startswith("load "):
            rate = self.capacity(turn) * int(kind.removeprefix("load ")) / 100
            due = arrivals(rate, effort.seconds, turn)
            outcome = asyncio.run(client.open_loop(mixed(len(due), turn), due))
            measured = told(outcome) | {"offered": round(rate, 3)}
        elif kind == "concurrency":
            measured = {"by_clients": self._by_clients(CONCURRENCY)}
        elif kind == "size":
            measured = {"by_side": self._by_side()}
        elif kind == "light":
            idle = server.busy_cores(IDLE_S)
            alone, many = (
                [
                    told(asyncio.run(client.closed_loop([Order(i) for i in range(count)], clients)))
                    for _ in range(3)
                ]
                for count, clients in ((50, 1), (300, 32))
            )
            pss, _ = server.memory_mb()
            measured = {
                "idle_cores": round(idle, 3),
                "alone": alone,
                "many": many,
                "cold_s": round(server.cold_s, 1),
                "pss_mb": round(pss),
            }
        else:
            raise ValueError(f"kind: got {kind!r}")
        self._results.add(kind, contestant.name, turn, **measured)

    def _by_clients(self, numbers: Sequence[int]) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = {}
        for clients in numbers:
            # One round is a burst: no client would wait for its answer before it asks again.
            count = max(FEWEST, ROUNDS * clients)
            orders = [Order(seed, steps=1) for seed in range(count)]
            outcome = asyncio.run(self._client.closed_loop(orders, clients))
            found[str(clients)] = told(outcome)
        return found

    def _by_side(self) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = {}
        for side, count in SIDES.items():
            orders = [Order(seed, side=side) for seed in range(count)]
            found[str(side)] = told(asyncio.run(self._client.closed_loop(orders, count)))
        return found
