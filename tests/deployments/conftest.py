"""Tiny models, built once, loaded as the replica loads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.backends.pipeline import PipelineBackend
from deployments.model import load_pipeline
from tests.deployments.tiny_fixtures import model_folder, one_thread
from tests.deployments.tiny_models import Kind

__all__ = ["MakeBackend", "make_backend", "model_folder", "one_thread"]

MakeBackend = Callable[..., PipelineBackend]


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
