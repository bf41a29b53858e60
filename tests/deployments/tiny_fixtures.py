"""Fixtures of tests with tiny models; a conftest imports what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.deployments import tiny_models
from tests.deployments.tiny_models import Kind


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Folder of a kind of tiny model of random weights."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda kind: tiny_models.build(kind, root / kind))
