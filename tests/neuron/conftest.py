"""optimum-neuron's own exporter and loader on the CPU, under stand-ins for the device libraries.

Run by ``make neuron-test`` under the Neuron profile's packages (all but torch, which is the main
environment's) and by ``make neuron-exact-test`` under every pin; any other run leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.tiny_fixtures import model_folder, one_thread

__all__ = ["build", "cores", "model_folder", "one_thread"]

HERE = find_spec("torch_neuronx") is not None and find_spec("optimum") is not None
collect_ignore_glob = [] if HERE else ["test_*.py"]

# Static rows of the exported UNets.
ROWS = 6
NEURON_WARNINGS = (
    "ignore:It seems this is running on a CPU-only machine:UserWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore::DeprecationWarning:optimum.*",
    "ignore::FutureWarning:optimum.*",
)


def pytest_configure(config: pytest.Config) -> None:
    """Libraries warning about themselves."""
    if HERE:
        for line in NEURON_WARNINGS:
            config.addinivalue_line("filterwarnings", line)


def pytest_report_header() -> list[str]:
    """Under what the tests run."""
    if not HERE:
        return []
    names = ("torch", "optimum-neuron", "diffusers", "transformers", "huggingface_hub")
    return ["Neuron profile: " + ", ".join(f"{name} {version(name)}" for name in names)]


@dataclass(frozen=True)
class Built:
    """A model and what the exporter made of it.

    Attributes:
        snapshot: the model.
        folder: the graphs.
        request: what was asked for.
        graphs: as the exporter described them.
        traces: what the stand-in for torch-neuronx was called with, in order.
        told: what the progress was told.
    """

    snapshot: Path
    folder: Path
    request: Any
    graphs: Any
    traces: list[dict[str, Any]]
    told: list[tuple[str, int, int]]


Build = Callable[..., Built]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[Any], Path]) -> Build:
    """Exports a kind of tiny model, once per kind."""
    return cache(lambda kind: export(model_folder(kind), tmp_path_factory.mktemp("graphs") / kind))


def export(snapshot: Path, folder: Path, side: int = 16, rows: int = ROWS, **given: str) -> Built:
    """With options that leave float32 as it is, unless told."""
    import torch_neuronx

    from compile.exporters import create_exporter
    from compile.exporters.base import ExportRequest

    exporter = create_exporter("neuron")
    request = ExportRequest(
        accelerator="neuron",
        height=side,
        width=side,
        batches=(rows,),
        options=exporter.options(given),
    )
    folder.mkdir()
    told: list[tuple[str, int, int]] = []
    first = len(torch_neuronx.traces)
    graphs = exporter.export(snapshot, folder, request, lambda *how: told.append(how))
    return Built(snapshot, folder, request, graphs, torch_neuronx.traces[first:], told)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Assigns cores to this process, as Ray does."""
    return lambda visible: monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", visible)
