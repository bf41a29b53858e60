"""Hardware fails in ways that no process is told of: no disk, no memory, another time of day."""

from __future__ import annotations

import os

import httpx
import pytest

from tests.chaos.hardship import FAKETIME, squeeze
from tests.chaos.shared import Shared
from tests.chaos.stand import BACK_WITHIN_S, request
from tests.e2e.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REQUESTS = 250


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


async def test_a_nodes_clock_jumps(fresh: Shared) -> None:
    """An hour forward and two back, while its replica has requests with deadlines."""
    if not FAKETIME.exists():
        pytest.skip(f"CLOCK JUMPS ARE NOT TESTED: no {FAKETIME} (Debian package libfaketime)")
    clock = fresh.targets.with_name("clock")
    clock.write_text("+0s\n", encoding="ascii")
    told = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    before = fresh.process("gamma")
    fresh.set_environment("gamma", **told)
    wait_for("its end", lambda: not before.is_running(), 60)
    wait_for("all pools", fresh.all_up, BACK_WITHIN_S)

    def jump(by_s: int) -> None:
        spare = clock.with_suffix(".new")
        spare.write_text(f"{by_s:+d}s\n", encoding="ascii")
        spare.replace(clock)

    outcome = await fresh.run(lambda: jump(3600), count=REQUESTS, ask=in_time)
    fresh.check("clock an hour forward", outcome)
    assert outcome.pools["gamma"] > REQUESTS // 4
    outcome = await fresh.run(lambda: jump(-3600), count=REQUESTS, ask=in_time)
    fresh.check("clock two hours back", outcome)
    assert outcome.pools["gamma"] > REQUESTS // 4
    assert fresh.pool("gamma")["failures"] == {}


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
