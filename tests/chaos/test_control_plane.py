"""Serve's own parts die, and configs come that are wrong."""

from __future__ import annotations

import asyncio
import copy
import time
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import psutil
import pytest

from tests.chaos.shared import Shared
from tests.chaos.stand import BACK_WITHIN_S, INGRESS, Outcome, request
from tests.e2e.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REQUESTS = 200
# A client that got no good answer for so long gives up, and its request counts as lost.
GIVE_UP_S = 120.0


class WithKey:
    """A client that gives each request a key, and asks again while it gets no answer.

    Attributes:
        resent: attempts beyond the first, by what the one before came to.
    """

    def __init__(self) -> None:
        self.resent: Counter[str] = Counter()

    async def __call__(self, client: httpx.AsyncClient, seed: int) -> httpx.Response:
        until = time.monotonic() + GIVE_UP_S
        while time.monotonic() < until:
            try:
                answer = await client.post(
                    "/v1/images/generations",
                    json=request(seed),
                    headers={"Idempotency-Key": f"chaos-{seed}"},
                )
            except httpx.TransportError as error:
                self.resent[type(error).__name__] += 1
            else:
                if answer.status_code < 500:
                    return answer
                self.resent[str(answer.status_code)] += 1
            await asyncio.sleep(0.5)
        raise httpx.TransportError(f"no good answer for {GIVE_UP_S:g} s")


async def test_an_ingress_replica_is_killed(fresh: Shared) -> None:
    """The one there is: its requests break off, and asking again with the same key heals that."""
    ask = WithKey()
    process = fresh.process("Ingress")
    outcome = await fresh.run(process.kill, count=REQUESTS, ask=ask, counted=False)
    outcome.resent = ask.resent
    fresh.check("ingress replica killed", outcome, counted=False)
    print(f"asked again after {dict(ask.resent)}")
    assert ask.resent.total() > 0, "nothing was under way there"
    # With nothing broken, a key that is known is not painted again.
    assert (await fresh.run(count=20, ask=ask, counted=False)).statuses == {200: 20}
    before = fresh.counts()
    assert (await fresh.run(count=20, ask=ask)).statuses == {200: 20}
    assert fresh.counts() == before


def controller() -> psutil.Process:
    """Serve's controller, among the processes of this run."""
    (found,) = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.name().startswith("ray::ServeContr")
    ]
    return found


async def test_the_controller_is_killed(fresh: Shared) -> None:
    """Traffic goes on without it, no replica restarts, and the next config is taken."""
    before = fresh.replica_ids()
    killed = controller()
    outcome = await fresh.run(killed.kill, count=REQUESTS)
    fresh.check("controller killed", outcome)

    def back() -> bool:
        try:
            return fresh.replica_ids() == before
        except (httpx.HTTPError, KeyError):
            return False  # not yet

    wait_for("the controller", back, 60)
    assert controller().pid != killed.pid
    fresh.configure(slo_s=31, weights={"alpha": 1, "beta": 0, "gamma": 0})
    outcome = await fresh.run(count=20)
    fresh.check("configured by the new controller", outcome)
    assert set(outcome.pools) == {"alpha"}
    assert fresh.replica_ids() == before


async def test_a_pool_of_two_and_then_the_ingress_are_updated(fresh: Shared) -> None:
    """Replica after replica, and the one front door: requests come all the while."""
    fresh.add_node("gamma")  # a second one, which stays
    fresh.renew({"gamma": 2, INGRESS: 1}, UPDATED="beforehand")

    async def updated(counts: dict[str, int]) -> AsyncIterator[Outcome]:
        """To what all others run, so that nothing is left to be put back."""
        update = asyncio.create_task(asyncio.to_thread(fresh.renew, counts))
        while not update.done():
            # Few at once: new replicas start on the same cores.
            yield await fresh.run(count=50, at_once=6, counted=INGRESS not in counts)
        await update

    async for outcome in updated({"gamma": 2}):
        fresh.check("pool of two updated", outcome)
    async for outcome in updated({INGRESS: 1}):
        fresh.check("ingress updated", outcome, counted=False)
    fresh.scale(gamma=1)
    wait_for("one replica", lambda: len(fresh.replica_ids()["gamma"]) == 1, BACK_WITHIN_S)


async def test_configs_come_wrong_and_then_right(fresh: Shared) -> None:
    """Under load: a wrong one changes nothing, whatever is wrong in it."""
    before = fresh.replica_ids()
    good = copy.deepcopy(fresh.config)

    def status() -> str:
        url = f"{fresh.dashboard}/api/serve/applications/"
        shown = httpx.get(url, timeout=30).json()["applications"]["imagine"]
        return f"{shown['status']}: {shown['message']}"

    def push() -> None:
        fresh.deployment("Ingress")["user_config"] = {"slo_s": -1}
        fresh.deploy()
        wait_for("the refusal", lambda: "slo_s" in str(fresh.get("/pools")["config_problem"]), 60)
        fresh.config = copy.deepcopy(good)
        fresh.config["applications"][0]["deployments"].append({"name": "nope"})
        fresh.deploy()
        wait_for("the other refusal", lambda: "nope" in status(), 60)
        fresh.config = copy.deepcopy(good)
        fresh.configure(slo_s=32, weights={"alpha": 0, "beta": 1, "gamma": 0})

    outcome = await fresh.run(push, count=REQUESTS, after=20)
    fresh.check("configs wrong and then right", outcome)
    assert fresh.get("/pools")["config_problem"] is None
    outcome = await fresh.run(count=20)
    fresh.check("configured at last", outcome)
    assert set(outcome.pools) == {"beta"}
    assert fresh.replica_ids() == before
