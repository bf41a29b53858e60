"""The load commands on five real replicas of emulated hardware, of known capacity and price."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtest.__main__ import main
from loadtest.emulated_cluster import CONFIG, EmulatedCluster, emulated_cluster
from loadtest.exits import Exit
from serve_app.live import LiveSettings
from serve_app.settings import Settings
from tests.e2e.conftest import free_port, wait_for
from tests.loadtest.queueing import md1_break

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STEPS = 8
# The AWS sample's Table 1, read per minute: US dollars for 1,000 pictures, cheapest first.
TABLE_1 = {"inf2": 0.120, "trn1": 0.172, "g5_compiled": 0.186, "g6": 0.220, "g5_eager": 0.279}
# Long enough for all five, so that each gets a weight.
SLO_MS = 1200


@pytest.fixture(scope="module")
def dashboard() -> int:
    return free_port()


@pytest.fixture(scope="module")
def cluster(dashboard: int) -> Iterator[EmulatedCluster]:
    with emulated_cluster(port=free_port(), dashboard_port=dashboard) as running:

        def all_up() -> bool:
            try:
                pools = httpx.get(f"{running.url}/readiness", timeout=10).json()["pools"]
            except (httpx.TransportError, ValueError, KeyError):
                return False
            return all(pool["available"] for pool in pools.values())

        wait_for("all five pools", all_up)
        yield running


def arguments() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    application: dict[str, Any] = config["applications"][0]
    return application


def replica_ids(dashboard: int) -> dict[str, list[str]]:
    url = f"http://127.0.0.1:{dashboard}/api/serve/applications/"
    found = httpx.get(url, timeout=30).json()["applications"]["imagine"]["deployments"]
    return {
        name: [replica["replica_id"] for replica in deployment["replicas"]]
        for name, deployment in found.items()
    }


def measured(cluster: EmulatedCluster, dashboard: int, out: Path) -> dict[str, Any]:
    """What the command finds and applies."""
    status = main(
        f"breaking-point --url {cluster.url} --pools all --slo-ms {SLO_MS} --minutes 1.8"
        f" --side-by-side 2 --apply --dashboard http://127.0.0.1:{dashboard} --out {out}".split()
    )
    assert status == Exit.DONE
    found: dict[str, Any] = json.loads((out / "breaking-point.json").read_text(encoding="utf-8"))
    return found


def capacities(result: dict[str, Any]) -> dict[str, float]:
    """Pictures a minute of one replica, by pool."""
    return {name: one["capacity"]["value"] for name, one in result["pools"].items()}


def test_capacities_costs_and_weights_are_found_and_applied_live(
    cluster: EmulatedCluster, dashboard: int, tmp_path: Path
) -> None:
    before = replica_ids(dashboard)
    settings = Settings.parse(arguments()["args"])
    # What each unit was configured to do.
    configured = {
        name: 60 / STEPS / pool.emulation.step_s
        for name, pool in settings.pools.items()
        if pool.emulation is not None
    }
    result = measured(cluster, dashboard, tmp_path)
    saturated = any("saturated" in problem for problem in result["problems"])
    if saturated and capacities(result) != pytest.approx(configured, rel=0.1):
        # It said itself that its figures may be this machine's: once more.
        result = measured(cluster, dashboard, tmp_path)
    assert capacities(result) == pytest.approx(configured, rel=0.1), result["problems"]
    pools = result["pools"]
    for name, one in pools.items():
        bounds = one["capacity"]
        assert one["curve_images_per_minute"] == pytest.approx(configured[name], rel=0.1)
        # Throughput followed the load, and then no more: a curve, not a point.
        rates = [point["rate_per_s"] * 60 for point in one["curve"]]
        assert min(rates) < 0.7 * bounds["value"] < 1.2 * bounds["value"] < max(rates)

    # A unit paints one picture after the other: what queueing theory says of that lies within the
    # bounds of a short trial's break point, most times.
    truths = {
        name: 60 * md1_break(one["alone_s"], SLO_MS / 1000, 95) for name, one in pools.items()
    }
    held = [
        0.9 * one["break_point"]["low"] <= truths[name] <= 1.1 * one["break_point"]["high"]
        for name, one in pools.items()
    ]
    assert sum(held) >= 3, (truths, {name: one["break_point"] for name, one in pools.items()})

    # What a picture costs, as the sample's measurements have it.
    costs = {name: one["dollars_per_1000"] for name, one in pools.items()}
    assert sorted(costs, key=lambda name: costs[name]) == list(TABLE_1), costs
    assert costs == pytest.approx(TABLE_1, rel=0.1)
    assert (tmp_path / "breaking-point.png").read_bytes().startswith(b"\x89PNG")

    # The file is the whole user_config: what was there, and what is new.
    written = yaml.safe_load((tmp_path / "user_config.yaml").read_text(encoding="utf-8"))
    LiveSettings.parse(written, settings)
    deployments = {one["name"]: one for one in arguments()["deployments"]}
    was = deployments["Ingress"]["user_config"]
    assert written == {**was, **result["user_config_changes"]}
    assert set(written["profiles"]) == set(written["weights"]) == set(TABLE_1)
    assert sum(written["weights"].values()) == 100

    # In force, and nothing was restarted for it.
    shown = httpx.get(f"{cluster.url}/pools", timeout=10).json()
    assert shown["config_problem"] is None
    assert shown["slo_s"] == SLO_MS / 1000
    assert {pool["name"]: pool["weight"] for pool in shown["pools"]} == written["weights"]
    assert {pool["name"]: pool["profile"] for pool in shown["pools"]} == written["profiles"]
    assert replica_ids(dashboard) == before

    # Traffic follows.
    status = main(
        f"run --url {cluster.url} --shape constant --rate 4 --duration 15 --out {tmp_path}".split()
    )
    assert status == Exit.DONE
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["sent"] == report["pictures"] == 60
    painted = {name: pool["pictures"] for name, pool in report["pools"].items()}
    wanted = {name: 0.6 * weight for name, weight in written["weights"].items()}
    assert painted == pytest.approx(wanted, abs=2)
