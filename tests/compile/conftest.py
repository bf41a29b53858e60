"""One real compilation per run; kept for the end-to-end tests, which are a run of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import artifacts


@pytest.fixture(scope="session")
def registry(request: pytest.FixtureRequest) -> Path:
    """A folder registry with the embedded model's artifact, always compiled afresh."""
    folder = artifacts.registry_folder(request.config.cache.mkdir("artifacts"))
    shutil.rmtree(folder, ignore_errors=True)
    artifacts.compile_embedded(folder)
    return folder
