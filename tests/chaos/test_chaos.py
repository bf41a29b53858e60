"""Hundreds of requests while something goes wrong: each has one answer, and the right picture."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from tests.chaos.exported import exported, settled
from tests.chaos.shared import DAMAGED, HUB, Shared
from tests.chaos.stand import (
    BACK_WITHIN_S,
    POOLS,
    REQUESTS,
    request,
    row_steps,
    sampling,
)
from tests.e2e.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

# Predicted wait on every pool: enough to outlast a change of the settings.
QUEUE_S = 6.0


def told_back(stand: Shared, began: float) -> None:
    """Wait until every pool serves, and say how long that took since ``began``."""
    wait_for("all pools", stand.all_up, BACK_WITHIN_S)
    print(f"all pools back after {time.monotonic() - began:.1f} s")


class Timed:
    """Does something once and remembers when."""

    def __init__(self, what: Callable[[], object]) -> None:
        self._what = what
        self.at = 0.0

    def __call__(self) -> None:
        self.at = time.monotonic()
        self._what()


def painted(stand: Shared) -> float:
    """Row-steps that the engines have run, as they themselves count them."""
    return settled(lambda: sum(exported(stand, "imagine_engine_row_steps_total")))


async def test_without_trouble_all_pools_share(fresh: Shared) -> None:
    before = await asyncio.to_thread(painted, fresh)
    outcome = await fresh.run()
    # Nothing was painted twice: not only the ingress says so, which sends.
    assert await asyncio.to_thread(painted, fresh) - before == row_steps(range(REQUESTS))
    fresh.check("no trouble", outcome, retries=0)
    # Equal weights over all of them: within one request of the third.
    assert max(outcome.pools.values()) - min(outcome.pools.values()) <= 2


async def test_a_replica_is_killed(fresh: Shared) -> None:
    kill = Timed(lambda: fresh.process("alpha").kill())
    outcome = await fresh.run(kill)
    fresh.check("replica killed", outcome)
    assert outcome.retried > 0
    told_back(fresh, kill.at)


async def test_a_node_is_lost(fresh: Shared) -> None:
    lose = Timed(lambda: fresh.cluster.remove_node(fresh.nodes.pop("beta"), allow_graceful=False))
    outcome = await fresh.run(lose)
    fresh.check("node lost", outcome)
    fresh.add_node("beta")
    told_back(fresh, lose.at)


async def test_one_pool_is_updated_and_no_other_restarts(fresh: Shared) -> None:
    before = fresh.replica_ids()

    def update() -> None:
        fresh.set_environment("gamma", UPDATED="yes")

    deploy = Timed(update)
    outcome = await fresh.run(deploy)
    fresh.check("one pool updated", outcome)

    def replaced() -> bool:
        ids = fresh.replica_ids()["gamma"]
        return bool(ids) and ids != before["gamma"]

    wait_for("the new replica", replaced, BACK_WITHIN_S)
    told_back(fresh, deploy.at)
    after = fresh.replica_ids()
    assert {name: after[name] for name in ("Ingress", "alpha", "beta")} == {
        name: before[name] for name in ("Ingress", "alpha", "beta")
    }


async def test_a_pool_goes_to_zero_and_comes_back(fresh: Shared) -> None:
    """And it takes no request once the ingress has seen that it is gone, which is soon."""
    gone_at: list[float] = []

    def to_zero() -> None:
        fresh.scale(alpha=0)
        until = time.monotonic() + BACK_WITHIN_S
        while fresh.replica_ids()["alpha"]:
            assert time.monotonic() < until, "it still has a replica"
            time.sleep(0.05)
        gone_at.append(time.monotonic())

    async with sampling(fresh) as seen:
        outcome = await fresh.run(to_zero)
    fresh.check("pool to zero", outcome)
    assert not fresh.pool("alpha")["available"]
    known = [
        (at, sum(pools["alpha"]["decisions"].values()))
        for at, pools in seen
        if at > gone_at[0] and not pools["alpha"]["available"]
    ]
    assert known, "the ingress has not seen that it is gone"
    late = known[0][0] - gone_at[0]
    print(f"\nthe ingress knew {late:.2f} s after Serve had no replica of it")
    assert late < 10.0
    # From then on it got nothing more.
    assert {sent for _, sent in known} == {known[0][1]}
    began = time.monotonic()
    fresh.scale(alpha=1)
    told_back(fresh, began)
    outcome = await fresh.run()
    fresh.check("pool back from zero", outcome)
    assert outcome.pools["alpha"] > REQUESTS // 4


async def test_a_pool_gets_ten_times_slower(fresh: Shared) -> None:
    """The ``latency`` policy moves the traffic away."""
    fresh.configure(slo_s=21, policy="latency")
    quick = await fresh.run()
    fresh.check("latency policy", quick, retries=0)
    process, stop = fresh.process("beta"), threading.Event()

    def slow_down() -> None:  # runs a tenth of the time
        while not stop.is_set():
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.18)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.02)

    thread = threading.Thread(target=slow_down)
    thread.start()
    try:
        slow = await fresh.run()
    finally:
        stop.set()
        thread.join()
    fresh.check("one pool ten times slower", slow, retries=0)
    assert slow.pools["beta"] < quick.pools["beta"] / 2


async def test_a_replica_hangs(fresh: Shared) -> None:
    """Its requests are painted elsewhere after the configured time; then it is left alone."""
    fresh.configure(
        slo_s=22, recovery={"hang_after_s": 2, "breaker_failures": 1, "breaker_open_s": 2}
    )
    process = fresh.process("gamma")
    hang = Timed(process.suspend)
    try:
        outcome = await fresh.run(hang)
        fresh.check("replica hung", outcome)
        assert fresh.pool("gamma")["failures"].get("hung", 0) > 0
        assert fresh.pool("gamma")["breaker"] != "closed"
    finally:
        process.resume()

    def probe() -> bool:  # probes are requests: someone must ask
        fresh.check("hung pool probed", asyncio.run(fresh.run(count=50)))
        return fresh.all_up()

    await asyncio.to_thread(wait_for, "gamma in rotation", probe, BACK_WITHIN_S)
    print(f"in rotation again {time.monotonic() - hang.at:.1f} s after it hung")


async def test_a_queue_that_overflows_refuses_with_an_honest_retry_after(fresh: Shared) -> None:
    fresh.configure(slo_s=23, admission={"max_wait_s": 0.5})
    outcome = await fresh.run(at_once=REQUESTS)
    fresh.check("queue overflow", outcome, refused=frozenset({429}))
    refused = [a for a in outcome.answers.values() if a.status_code == 429]
    assert refused
    assert all(answer.json()["error"]["code"] == "overloaded" for answer in refused)
    assert fresh.get("/pools")["refusals"]["overloaded"] >= len(refused)


async def test_retry_after_is_honest(fresh: Shared) -> None:
    """Whoever comes back when told to is taken, and would not have been long before."""
    long = {"prompt": "a", "num_inference_steps": 40, "n": 4}
    async with httpx.AsyncClient(base_url=fresh.url, timeout=300) as client:
        # Three pools on these cores are slower than each was alone when it was calibrated.
        await asyncio.gather(*(client.post("/imagine", json=long) for _ in range(15)))
        queue: list[asyncio.Future[httpx.Response]] = []

        def shortest_wait_s() -> float:
            pools = fresh.get("/pools")["pools"]
            return min(pool["queue"]["predicted_wait_s"] for pool in pools if pool["name"] in POOLS)

        while await asyncio.to_thread(shortest_wait_s) < QUEUE_S:
            queue.append(asyncio.ensure_future(client.post("/imagine", json=long)))
            await asyncio.sleep(0.05)
        # The limit comes once the queue is there, which would not have grown so long under it.
        await asyncio.to_thread(fresh.configure, slo_s=26, admission={"max_wait_s": 1})
        first = await client.post("/imagine", json=request(0))
        assert first.status_code == 429
        told_s, began = int(first.headers["retry-after"]), time.monotonic()
        assert told_s >= 2, "the queue is too short to tell honesty from a constant"
        answer = first
        while answer.status_code == 429:
            await asyncio.sleep(0.25)
            answer = await client.post("/imagine", json=request(0))
        taken_s = time.monotonic() - began
        print(f"\ntold to come back after {told_s} s, taken after {taken_s:.1f} s")
        assert told_s / 4 < taken_s < 2 * told_s + 2
        assert {answer.status_code for answer in await asyncio.gather(*queue)} == {200}


async def test_200_clients_leave(fresh: Shared) -> None:
    leaving = frozenset(seed for seed in range(REQUESTS) if seed % 3)
    assert len(leaving) == 200
    outcome = await fresh.run(leaving=leaving)
    fresh.check("200 clients leave", outcome)
    assert len(outcome.left) > 150
    assert set(range(REQUESTS)) - leaving <= set(outcome.answers)
    fresh.settle()  # what they had asked for is painted by nobody


def test_an_ingress_that_restarts_under_a_bad_configuration_keeps_the_last_good_one(
    fresh: Shared,
) -> None:
    fresh.configure(slo_s=27, weights={"alpha": 1, "beta": 0, "gamma": 0})
    fresh.deployment("Ingress")["user_config"] = {"slo_s": 28, "weights": {"nope": 1}}
    fresh.deploy()
    wait_for("the refusal", lambda: bool(fresh.get("/pools")["config_problem"]), 60)
    before = fresh.process("Ingress")
    before.kill()
    before.wait(10)

    def up() -> bool:
        try:
            return bool(fresh.get("/pools")["slo_s"] == 27)
        except (httpx.HTTPError, ValueError, KeyError):
            return False  # not back yet

    wait_for("the ingress", up, 60)
    assert "weights.nope" in fresh.get("/pools")["config_problem"]
    answer = httpx.post(f"{fresh.url}/imagine", json=request(3), timeout=60)
    assert (answer.status_code, answer.headers["x-pool"]) == (200, "alpha")
    assert answer.content == fresh.pictures[3]


async def test_a_hot_weight_change_rules_the_next_request(fresh: Shared) -> None:
    before = fresh.replica_ids()
    fresh.configure(slo_s=24, weights={"alpha": 1, "beta": 0, "gamma": 0})
    outcome = await fresh.run(count=100)
    fresh.check("all weight on one pool", outcome, retries=0)
    assert set(outcome.pools) == {"alpha"}
    fresh.configure(slo_s=25, weights={"alpha": 0, "beta": 1, "gamma": 3})
    outcome = await fresh.run()
    fresh.check("weights changed", outcome, retries=0)
    assert outcome.pools == {"beta": REQUESTS // 4, "gamma": 3 * REQUESTS // 4}
    assert fresh.replica_ids() == before
    assert set(POOLS) < set(before)


def test_prices_profiles_policy_and_stickiness_change_live_and_a_lost_pool_is_unstuck(
    fresh: Shared,
) -> None:
    before = fresh.replica_ids()
    fresh.configure(
        slo_s=29,
        policy="cost",
        prices={"alpha": 1, "beta": 2, "gamma": 4, HUB: 9, DAMAGED: 9},
        profiles={pool: {"latency_s": 1, "images_per_minute": 60} for pool in POOLS},
        stickiness={"duration_s": 60},
    )
    pools = {pool["name"]: pool for pool in fresh.get("/pools")["pools"]}
    # Equal speed: shares as 1/price.
    assert [round(pools[name]["share"] * 7, 6) for name in POOLS] == [4, 2, 1]
    assert [round(pools[name]["cost_per_1000"], 3) for name in POOLS] == [0.278, 0.556, 1.111]
    with httpx.Client(base_url=fresh.url, timeout=60) as client:
        first = client.post("/imagine", json=request(1))
        home = first.headers["x-pool"]
        assert "Max-Age=60" in first.headers["set-cookie"]
        for seed in range(2, 12):
            answer = client.post("/imagine", json=request(seed))
            assert (answer.headers["x-pool"], answer.content) == (home, fresh.pictures[seed])
        assert fresh.replica_ids() == before
        fresh.cluster.remove_node(fresh.nodes.pop(home), allow_graceful=False)
        wait_for("the loss", lambda: not fresh.pool(home)["available"], 60)
        moved = client.post("/imagine", json=request(12))
        new = moved.headers["x-pool"]
        assert (moved.status_code, new != home) == (200, True)
        for seed in range(13, 23):
            answer = client.post("/imagine", json=request(seed))
            assert (answer.headers["x-pool"], answer.content) == (new, fresh.pictures[seed])
    others = [name for name in before if name != home]
    assert {name: fresh.replica_ids()[name] for name in others} == {
        name: before[name] for name in others
    }
