"""A node that nobody hears any more, and a head that dies: nodes with networks of their own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.chaos.ledger import Ledger
from tests.chaos.network import HEAD, Network, network, why_not
from tests.chaos.stand import BACK_WITHIN_S, Stand, resource, serve_config
from tests.e2e.conftest import free_port, is_up, replica_processes, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

NEAR, FAR = "near", "far"
REQUESTS = 200


def make_config(folder: Path, port: int, targets: Path) -> dict[str, Any]:
    """A pool beside the ingress, where requests enter, and one on a node of its own."""
    pools = {
        pool: {
            "accelerator": resource(pool),
            "framework": "cpu",
            "resources": {"num_cpus": 0, "resources": {resource(pool): 1}},
            "engine": {"threads": 1, "deterministic": True, "max_rows": 4},
        }
        for pool in (NEAR, FAR)
    }
    return serve_config(
        folder,
        port,
        pools,
        ("FilePolicy", {"path": str(targets)}),
        {},
        host="0.0.0.0",
        proxy="EveryNode",
        max_replicas=1,
    )


@pytest.fixture(scope="module")
def cabled(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger) -> Iterator[Stand]:
    """A head without replicas, and two nodes; ``cluster`` is the network."""
    reason = why_not()
    if reason:
        pytest.skip(f"NETWORK PARTITION AND HEAD RESTART ARE NOT TESTED: {reason}")
    folder, port = tmp_path_factory.mktemp("cabled"), free_port()
    targets = folder / "targets.json"
    targets.write_text(json.dumps({NEAR: 1, FAR: 1}), encoding="utf-8")
    with network() as made:
        made.add_node(NEAR, json.dumps({"front": 1, resource(NEAR): 1}))
        made.add_node(FAR, json.dumps({resource(FAR): 1}))
        stand = Stand(
            url=f"http://{made.addresses[NEAR]}:{port}",
            dashboard=f"http://127.0.0.1:{made.dashboard}",
            cluster=made,
            config=make_config(folder, port, targets),
            targets=targets,
            ledger=ledger,
            pools=(NEAR, FAR),
        )
        stand.deploy()
        with httpx.Client(base_url=stand.url, timeout=30) as client:
            wait_for("the service", lambda: is_up(client))
        wait_for("both pools", stand.all_up)
        stand.learn(REQUESTS)
        yield stand


def net(stand: Stand) -> Network:
    assert isinstance(stand.cluster, Network)
    return stand.cluster


async def test_a_node_is_cut_off(cabled: Stand) -> None:
    """What was under way there is painted elsewhere; nobody hears twice; it is used again later."""
    recovery = {"hang_after_s": 2, "breaker_failures": 1, "breaker_open_s": 2}
    cabled.configure(slo_s=20, recovery=recovery)
    outcome = await cabled.run(lambda: net(cabled).cut(FAR), count=REQUESTS)
    cabled.check("node cut off", outcome)
    assert outcome.retried > 0, "nothing was under way there"
    wait_for("the loss", lambda: not cabled.pool(FAR)["available"], BACK_WITHIN_S)
    net(cabled).mend(FAR)
    # Ray has written the node off: it must end there, and come as a new one.
    wait_for("its end", lambda: not raylets(net(cabled), FAR), BACK_WITHIN_S)
    net(cabled).kill(FAR)
    net(cabled).join(FAR, json.dumps({resource(FAR): 1}))
    wait_for("the node's pool", cabled.all_up, BACK_WITHIN_S)
    outcome = await cabled.run(count=REQUESTS)
    cabled.check("node joined again", outcome)
    assert outcome.pools[FAR] >= REQUESTS // 2 - 1


def raylets(made: Network, name: str) -> list[psutil.Process]:
    """The node's raylets that live."""
    found = psutil.Process(made.nodes[name].pid).children(recursive=True)
    return [one for one in found if one.is_running() and one.name() == "raylet"]


async def test_the_head_dies_and_comes_back(cabled: Stand) -> None:
    """Requests go on without it; afterwards it knows everything, and nothing was restarted."""
    cabled.configure(slo_s=21, weights={NEAR: 1, FAR: 3})
    cabled.settle()
    processes = [p.pid for name in (NEAR, FAR, "Ingress") for p in replica_processes(name)]
    assert len(processes) == 3
    outcome = await cabled.run(lambda: net(cabled).kill(HEAD), count=REQUESTS)
    cabled.check("head killed", outcome)
    cabled.check("without a head", await cabled.run(count=REQUESTS))
    wanted = copy.deepcopy(cabled.config)
    outcome = await cabled.run(net(cabled).start_head, count=REQUESTS, after=1)
    cabled.check("head restarted", outcome)
    wait_for("the controller", lambda: knows(cabled), BACK_WITHIN_S)
    assert cabled.config == wanted
    # The live settings of before are in force, and new ones are taken.
    assert cabled.get("/pools")["slo_s"] == 21
    cabled.configure(slo_s=22, weights={NEAR: 1, FAR: 0})
    outcome = await cabled.run(count=50)
    cabled.check("configured after the restart", outcome)
    assert set(outcome.pools) == {NEAR}
    after = [p.pid for name in (NEAR, FAR, "Ingress") for p in replica_processes(name)]
    assert after == processes


def knows(stand: Stand) -> bool:
    """Whether the new head's controller tells of all three deployments as running."""
    try:
        ids = stand.replica_ids()
    except (httpx.HTTPError, KeyError):
        return False  # not back yet
    return all(ids.get(name) for name in (NEAR, FAR, "Ingress"))
