"""Hardware fails in ways that no process is told of: no disk, no memory, another time of day."""

from __future__ import annotations

import os
import time
from functools import partial

import httpx
import pytest

from tests.chaos.hardship import FAKETIME, squeeze
from tests.chaos.shared import Shared
from tests.chaos.stand import BACK_WITHIN_S, INGRESS, Outcome, request
from tests.e2e.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REQUESTS = 150


async def test_a_replica_is_killed_for_its_memory(fresh: Shared) -> None:
    """By the kernel, in the middle of its work."""
    with squeeze(f"chaos-{os.getpid()}") as group:
        if group is None:
            pytest.skip("MEMORY PRESSURE IS NOT TESTED: no memory control group can be made here")
        process, (_, before) = fresh.process("alpha"), fresh.counts()
        large = request(0) | {"width": 256, "height": 256, "pool": "alpha"}

        def press() -> None:
            """Memory gets short, and a picture comes that needs much of it."""
            group.take(process)
            httpx.post(f"{fresh.url}/imagine", json=large, timeout=120)

        outcome = await fresh.run(press, count=REQUESTS, counted=False)
        wait_for("the kill", lambda: not process.is_running(), 60)
        assert group.kills > 0
    fresh.check("replica killed for memory", outcome, counted=False)
    assert fresh.counts()[1] > before
    wait_for("all pools", fresh.all_up, BACK_WITHIN_S)


async def in_time(client: httpx.AsyncClient, seed: int) -> httpx.Response:
    """With a deadline, which a clock could break."""
    return await client.post("/imagine", json=request(seed) | {"deadline_ms": 100_000})


def ahead_s(stand: Shared, *deployments: str) -> dict[str, float]:
    """By how much their replicas' own processes see the wall clock ahead of this one's."""
    import ray

    ids = stand.replica_ids()
    ahead = {}
    ray.init(address=stand.cluster.address, namespace="serve", log_to_driver=False)
    try:
        for name in deployments:
            (replica,) = ids[name]
            actor = ray.get_actor(f"SERVE_REPLICA::imagine#{name}#{replica}")
            told = ray.get(actor.__ray_call__.remote(lambda _: time.time()), timeout=30)
            ahead[name] = told - time.time()
    finally:
        ray.shutdown()
    return ahead


async def test_clocks_jump(fresh: Shared) -> None:
    """A replica's and the ingress', forward and back, while there are requests with deadlines."""
    if not FAKETIME.exists():
        pytest.skip(f"CLOCK JUMPS ARE NOT TESTED: no {FAKETIME} (Debian package libfaketime)")
    clock = fresh.targets.with_name("clock")
    clock.write_text("+0s\n", encoding="ascii")
    told = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    both = {"gamma": 1, INGRESS: 1}
    fresh.renew(both, **told)
    wait_for("all pools", fresh.all_up, BACK_WITHIN_S)

    def jump(to_s: int) -> None:
        spare = clock.with_suffix(".new")
        spare.write_text(f"{to_s:+d}s\n", encoding="ascii")
        spare.replace(clock)

    async def jumped(to_s: int) -> Outcome:
        outcome = await fresh.run(partial(jump, to_s), count=120, ask=in_time)
        assert outcome.pools["gamma"] > 120 // 4
        seen = ahead_s(fresh, *both)
        print(f"seen to be ahead by {seen}")
        assert seen == pytest.approx(dict.fromkeys(seen, to_s), abs=60)
        return outcome

    fresh.check("clocks an hour forward", await jumped(3600))
    fresh.check("clocks two hours back", await jumped(-3600))
    assert fresh.pool("gamma")["failures"] == {}
    fresh.renew(both)


async def test_the_disk_is_full(fresh: Shared) -> None:
    """That of the audit log: every request is answered, and the log goes on when there is room."""
    if fresh.disk.why_not:
        pytest.skip(
            f"FULL DISKS ARE NOT TESTED: no filesystem can be mounted: {fresh.disk.why_not}"
        )
    audit = fresh.disk.folder / "audit.log"
    outcome = await fresh.run(fresh.disk.fill, count=REQUESTS)
    fresh.check("disk full", outcome)
    full = audit.stat().st_size
    assert (await fresh.run(count=20)).statuses == {200: 20}
    assert audit.stat().st_size <= full + 4096
    kept = audit.stat().st_size
    fresh.disk.free()
    outcome = await fresh.run(count=20)
    fresh.check("disk with room again", outcome)
    assert audit.stat().st_size > kept
