"""Autoscaling on a real cluster: made-up hardware, emulated speed, real load over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest.emulated_cluster import cluster_head
from tests.chaos.ledger import Ledger
from tests.chaos.stand import Stand, serve_config
from tests.e2e.conftest import free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

STEP_S, STEPS = 0.05, 8
# Profiles tell of the model's default request, which has 50 steps; one at a time.
PICTURE_S = STEP_S * 50
SLO_S = 2.0
# Of a pool. The load is more than one does; each more has to start on this machine's cores.
MOST = 3
PRICES = {"cheap": 0.5, "dear": 2.0}
REQUEST = {"prompt": "a b c", "num_inference_steps": STEPS, "guidance_scale": 4.0}
# A replica starts anew on this machine, beside others that start and work.
START_S = 240.0


class Load(threading.Thread):
    """Requests at even intervals from clients that do not wait for each other."""

    def __init__(self, url: str, rate: float) -> None:
        super().__init__(daemon=True)
        self.rate = rate
        self.answers: list[tuple[float, float, int, str]] = []  # sent, took, status, pool
        self.errors: list[str] = []
        self.open: dict[int, float] = {}  # seed -> sent
        self._url = url
        self._over = threading.Event()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=200, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            seed = 0
            while not self._over.is_set():
                seed += 1
                group.create_task(self._one(client, seed))
                await asyncio.sleep(1 / self.rate)

    async def _one(self, client: httpx.AsyncClient, seed: int) -> None:
        began = self.open[seed] = time.monotonic()
        answer = await client.post("/imagine", json=REQUEST | {"seed": seed})
        del self.open[seed]
        took = time.monotonic() - began
        if answer.status_code != 200:
            self.errors.append(answer.text)
        self.answers.append((began, took, answer.status_code, answer.headers.get("x-pool", "")))

    def stop(self) -> None:
        self._over.set()
        self.join(200)

    def p95_s(self, last_s: float) -> float:
        now = time.monotonic()
        done = [(began, took) for began, took, _, _ in self.answers]
        # What is not answered yet has taken so long at least.
        under_way = [(began, now - began) for began in self.open.copy().values()]
        took = sorted(took for began, took in done + under_way if began > now - last_s)
        return took[int(0.95 * len(took))] if len(took) >= 20 else float("inf")

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for _, _, status, _ in self.answers)


def make_config(folder: Path, port: int) -> dict[str, Any]:
    pools = {
        name: {
            "accelerator": name,
            "framework": "emulated",
            "emulation": {"step_s": STEP_S},
            "resources": {"num_cpus": 0, "resources": {f"{name}_card": 1}},
            "engine": {"threads": 1, "max_rows": 2},
            "min_replicas": 0,
            "max_replicas": MOST,
            "elastic": {"provisioning_s": 8, "start_s": 5},
        }
        for name in PRICES
    }
    policy = {
        "fault": str(folder / "fault"),
        "pools": pools,
        "planner": {"shrink_after_s": 20, "zero_after_s": 20, "drain_s": 20},
        "poll_s": 1,
    }
    profile = {"latency_s": PICTURE_S, "images_per_minute": 60 / PICTURE_S}
    live = {
        "policy": "latency",
        "slo_s": SLO_S,
        "prices": PRICES,
        "profiles": dict.fromkeys(PRICES, profile),
    }
    return serve_config(
        folder,
        port,
        pools,
        ("FaultyPolicy", policy),
        live,
        max_replicas=MOST,
        look_back_period_s=5,
    )


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger) -> Iterator[Stand]:
    """The service with both pools at zero; each has a node for all its replicas."""
    folder, port, dashboard = tmp_path_factory.mktemp("scaling"), free_port(), free_port()
    with cluster_head(dashboard) as cluster:
        stand = Stand(
            url=f"http://127.0.0.1:{port}",
            dashboard=f"http://127.0.0.1:{dashboard}",
            cluster=cluster,
            config=make_config(folder, port),
            targets=folder / "fault",
            ledger=ledger,
            pools=tuple(PRICES),
        )
        for pool in PRICES:
            add_node(stand, pool)
        stand.deploy()
        wait_for("the front door", lambda: answers(stand, "/health"))
        yield stand


def add_node(stand: Stand, pool: str) -> None:
    stand.nodes[pool] = stand.cluster.add_node(num_cpus=0, resources={f"{pool}_card": MOST})


def answers(stand: Stand, path: str) -> bool:
    try:
        return httpx.get(stand.url + path, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def ready(stand: Stand) -> dict[str, int]:
    return {pool["name"]: pool["ready_replicas"] for pool in stand.get("/pools")["pools"]}


def settled(stand: Stand) -> bool:
    """Whether every pool has the replicas that it is to have."""
    return all(
        pool["ready_replicas"] == pool["autoscaling"]["target"]
        for pool in stand.get("/pools")["pools"]
    )


def supply(stand: Stand, pool: str) -> str:
    told = stand.pool(pool)["autoscaling"]
    return "" if told is None else str(told["supply"])


def test_replicas_follow_the_load_and_lost_hardware_and_go_to_zero(scaled: Stand) -> None:
    assert ready(scaled) == {"cheap": 0, "dear": 0}

    # Nothing is there; the first request is answered all the same, by the cheaper pool.
    began = time.monotonic()
    first = httpx.post(scaled.url + "/imagine", json=REQUEST | {"seed": 1}, timeout=START_S)
    print(f"\nfirst picture from zero after {time.monotonic() - began:.1f} s")
    assert (first.status_code, first.headers["x-pool"]) == (200, "cheap")

    # Load steps up; replicas follow, until latencies keep the objective.
    load = Load(scaled.url, rate=3.0)
    began = time.monotonic()
    load.start()
    try:
        wait_for("more replicas", lambda: ready(scaled)["cheap"] >= 2, START_S)
        wait_for("p95 under the objective", lambda: load.p95_s(10) < SLO_S, START_S)
        print(f"p95 {load.p95_s(10):.2f} s, {time.monotonic() - began:.1f} s after the step")
        told = scaled.pool("cheap")["autoscaling"]
        # The reason is another where this machine is so busy that starting takes long.
        assert (
            told["target"] >= 2,
            told["reason"] != "as configured",
            bool(told["changed_at"]),
        ) == (
            True,
            True,
            True,
        ), told

        # The cheap pool's node is lost and none comes: the other pool takes over.
        scaled.cluster.remove_node(scaled.nodes.pop("cheap"), allow_graceful=False)
        lost = time.monotonic()
        wait_for("the other pool", lambda: ready(scaled)["dear"] >= 2, START_S)
        print(f"the dear pool has taken over after {time.monotonic() - lost:.1f} s")
        wait_for("the shortage", lambda: supply(scaled, "cheap") == "short", START_S)
        wait_for("p95 under the objective", lambda: load.p95_s(10) < SLO_S, START_S)

        # A node comes back: so does the pool, by itself, and the dear one may go.
        add_node(scaled, "cheap")
        back = time.monotonic()
        wait_for("supply", lambda: supply(scaled, "cheap") == "open", 3 * START_S)
        wait_for("the cheap pool", lambda: ready(scaled)["cheap"] >= 2, START_S)
        wait_for("the dear pool gone", lambda: ready(scaled)["dear"] == 0, START_S)
        print(f"all is at the cheap pool again after {time.monotonic() - back:.1f} s")
    finally:
        load.stop()
    assert set(load.statuses) == {200}, (load.statuses, load.errors)
    print(f"{len(load.answers)} requests, all answered")

    # Load ends: to zero, and up again for one who asks.
    ended = time.monotonic()
    wait_for("zero", lambda: ready(scaled) == {"cheap": 0, "dear": 0}, START_S)
    print(f"zero replicas {time.monotonic() - ended:.1f} s after the load")
    again = httpx.post(scaled.url + "/imagine", json=REQUEST | {"seed": 1}, timeout=START_S)
    assert (again.status_code, again.content) == (200, first.content)


def test_a_policy_that_fails_holds_every_count_and_freezes_nothing(scaled: Stand) -> None:
    assert httpx.post(scaled.url + "/imagine", json=REQUEST, timeout=START_S).status_code == 200
    wait_for("what was decided", lambda: settled(scaled), START_S)
    counts = ready(scaled)
    scaled.targets.write_text(json.dumps("fail"), encoding="utf-8")
    try:
        time.sleep(3)
        # New settings are still applied, which a frozen controller would not do.
        ingress = scaled.deployment("Ingress")
        ingress["user_config"] = ingress["user_config"] | {"slo_s": 3.0}
        scaled.deploy()
        wait_for("the new settings", lambda: scaled.get("/pools")["slo_s"] == 3.0, 30)
        assert ready(scaled) == counts
        assert httpx.post(scaled.url + "/imagine", json=REQUEST, timeout=60).status_code == 200
        told = scaled.get("/pools")["autoscaling"]
        assert told["faults"] > 0  # while they last
    finally:
        scaled.targets.unlink()
    wait_for(
        "new decisions",
        lambda: scaled.get("/pools")["autoscaling"]["decided_at"] > told["decided_at"],
        30,
    )
