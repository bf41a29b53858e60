"""One service for all scenarios that can share it, and the report of all."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.emulated_cluster import cluster_head
from tests.chaos.hardship import SmallDisk
from tests.chaos.ledger import Ledger
from tests.chaos.shared import DAMAGED, HUB, SPARE, Shared, make_config, targets_file
from tests.chaos.stand import BACK_WITHIN_S, POOLS
from tests.e2e.conftest import ROOT, free_port, is_up, wait_for
from tests.moto_server import MotoServer

REPORT = ROOT / "build" / "chaos"


_LEDGER = pytest.StashKey[Ledger]()


@pytest.fixture(scope="session")
def ledger(pytestconfig: pytest.Config) -> Iterator[Ledger]:
    """Of the whole run; the report is written at its end."""
    kept = pytestconfig.stash[_LEDGER] = Ledger()
    yield kept
    kept.write(REPORT)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what was skipped: a report without it would look whole."""
    report = yield
    kept = item.config.stash.get(_LEDGER, None)
    if report.skipped and kept is not None:
        assert isinstance(report.longrepr, tuple)
        kept.skipped[item.name] = report.longrepr[2].removeprefix("Skipped: ")
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the table, whatever else the run shows."""
    kept = config.stash.get(_LEDGER, None)
    if kept is not None and (kept.entries or kept.skipped):
        terminalreporter.section(f"chaos: {REPORT / 'chaos.md'}")
        for row in kept.rows():
            terminalreporter.write_line(row, red="NOT RUN" in row)


@pytest.fixture(scope="session")
def aws() -> Iterator[None]:
    """For all that Ray starts: credentials that open nothing, early metrics, no niceness."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        # Else whatever runs beside the tests starves the replicas.
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="package")
def stand(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger, aws: None) -> Iterator[Shared]:
    """The service on a head and three nodes, each pool's replica up, all pictures known."""
    folder, dashboard = tmp_path_factory.mktemp("chaos"), free_port()
    disk, moto = SmallDisk(folder / "disk", megabytes=32), MotoServer()
    moto.start()
    try:
        yield from serve(folder, ledger, disk, moto, dashboard)
    finally:
        moto.stop()
        disk.unmount()


def serve(
    folder: Path, ledger: Ledger, disk: SmallDisk, moto: MotoServer, dashboard: int
) -> Iterator[Shared]:
    """The stand, until the generator ends."""
    port, hub_port, targets = free_port(), free_port(), targets_file(folder)
    with cluster_head(dashboard) as cluster:
        stand = Shared(
            url=f"http://127.0.0.1:{port}",
            dashboard=f"http://127.0.0.1:{dashboard}",
            cluster=cluster,
            config=make_config(
                folder, port, targets, disk=disk.folder, hub_port=hub_port, moto_url=moto.url
            ),
            targets=targets,
            ledger=ledger,
            disk=disk,
            moto=moto,
            hub_port=hub_port,
            folder=folder,
        )
        for pool in POOLS:
            stand.add_node(pool)
        cluster.add_node(num_cpus=0, resources={SPARE: 2})
        stand.deploy()
        with httpx.Client(base_url=stand.url, timeout=30) as client:
            wait_for("the service", lambda: is_up(client))
        wait_for("all pools", stand.all_up)
        stand.learn()
        yield stand


@pytest.fixture
def fresh(stand: Shared) -> Iterator[Shared]:
    """The stand with all pools up and idle; its settings are put back afterwards."""
    config = copy.deepcopy(stand.config)
    stand.configure(slo_s=20)
    wait_for("all pools", stand.all_up, BACK_WITHIN_S)
    stand.settle()
    yield stand
    stand.config = config
    stand.scale(**dict.fromkeys(POOLS, 1) | {HUB: 0, DAMAGED: 0})
    for pool in POOLS:
        if pool not in stand.nodes:
            stand.add_node(pool)
