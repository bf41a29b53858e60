"""Overlays built once; what could not be checked is said at the end of the run."""

from __future__ import annotations

import pytest

from tests.kuberay import cel, rendering, schemas
from tests.kuberay.manifest import Manifest


@pytest.fixture(scope="session")
def kubectl() -> str:
    """kubectl, or a skip that says how to get it."""
    found = rendering.kubectl()
    if found is None:
        pytest.skip("NO KUBECTL: no overlay was checked; it comes with `make setup`")
    return found


@pytest.fixture(scope="session")
def crds() -> None:
    """The CRDs beside the repository, or a skip that says what was not checked."""
    if not schemas.CRDS.is_dir():
        pytest.skip(f"NO CRDS in {schemas.CRDS}: custom resources were not checked against schemas")


@pytest.fixture(scope="session", params=rendering.overlays())
def overlay(request: pytest.FixtureRequest, kubectl: str) -> Manifest:
    """Each overlay, rendered."""
    return rendering.overlay(request.param)


@pytest.fixture(scope="session", params=rendering.additions())
def addition(request: pytest.FixtureRequest, kubectl: str) -> Manifest:
    """Each addition, on top of the overlay with every family."""
    return rendering.with_addition(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the CEL rules that were met and not evaluated."""
    if cel.UNCHECKED:
        terminalreporter.section("CEL rules not evaluated")
        for place, why in sorted(cel.UNCHECKED.items()):
            terminalreporter.write_line(f"{place} -- {why}")
