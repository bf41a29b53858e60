"""Tiny models, built once, loaded as the replica loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.backends.pipeline import PipelineBackend
from deployments.model import load_pipeline
from tests.deployments import tiny_models
from tests.deployments.tiny_models import Kind

MakeBackend = Callable[..., PipelineBackend]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Folder of a kind of tiny model."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda kind: tiny_models.build(kind, root / kind))


@pytest.fixture(scope="session")
def make_backend(model_folder: Callable[[Kind], Path]) -> MakeBackend:
    """Backend of a kind of tiny model; made once per setting."""

    @cache
    def make(
        kind: Kind,
        fixed_rows: int | None = None,
        decode_batch: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> Any:
        return PipelineBackend(
            load_pipeline(str(model_folder(kind)), None),
            device=torch.device("cpu"),
            dtype=dtype,
            fixed_rows=fixed_rows,
            decode_batch=decode_batch,
            overlap_decode=False,
        )

    return make
