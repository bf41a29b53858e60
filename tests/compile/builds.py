"""A build of made-up graphs: whole as far as a registry can tell, and quick to make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from compile.exporters.base import ExportedGraph, ExportRequest, Fact, TensorSpec
from compile.manifest import (
    MANIFEST,
    GraphRecord,
    Manifest,
    ModelRecord,
    fingerprint,
    record_files,
)

MODEL = ModelRecord(source="someone/model", revision="c" * 40)
REQUEST = ExportRequest(accelerator="cpu", height=64, width=64, batches=(2, 4))
ENVIRONMENT = {
    "torch": Fact("2.13.0"),
    "gpu": Fact("NVIDIA H100"),
    "driver": Fact("550.54.15", "at_least"),
    "cpu_isa": Fact("avx avx2", "superset"),
    "diffusers": Fact("0.42.1", "recorded"),
}


def make_manifest(folder: Path, **changes: Any) -> Manifest:
    """A manifest of whatever a folder holds."""
    made = Manifest(
        fingerprint="",
        model=MODEL,
        accelerator="cpu",
        height=64,
        width=64,
        batches=(2, 4),
        vae_batch=1,
        dtype="float32",
        options={},
        environment=ENVIRONMENT,
        graphs=(
            GraphRecord(
                graph=ExportedGraph(
                    name="unet-2",
                    component="unet",
                    batch=2,
                    path="unet-2.pt2",
                    inputs=(TensorSpec("sample", (2, 4, 8, 8), "float32"),),
                    outputs=(TensorSpec("prediction", (2, 4, 8, 8), "float32"),),
                    tolerance=1e-4,
                ),
                error=1e-6,
            ),
        ),
        files=record_files(folder),
        created="2026-01-01T00:00:00+00:00",
        seconds={"export": 1.0},
    )
    changed = made.model_copy(update=changes)
    return changed.model_copy(update={"fingerprint": fingerprint(*changed.causes())})


def make_build(folder: Path, size: int = 50_000, **changes: Any) -> Manifest:
    """Write a build of two files, one of them of random bytes."""
    (folder / "configs").mkdir(parents=True)
    (folder / "unet-2.pt2").write_bytes(os.urandom(size))
    (folder / "configs" / "config.json").write_text("{}", encoding="utf-8")
    manifest = make_manifest(folder, **changes)
    (folder / MANIFEST).write_text(manifest.dump(), encoding="utf-8")
    return manifest
