"""From a model to a folder that can be published: export, validate, describe."""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

from compile.exporters.base import Exporter, ExportError, ExportRequest, Progress
from compile.lora import Lora, fused, record
from compile.manifest import MANIFEST, Manifest, fingerprint, record_files
from compile.snapshot import Snapshot


def build(
    snapshot: Snapshot,
    request: ExportRequest,
    exporter: Exporter,
    target: Path,
    exporting: Progress,
    validating: Progress,
    *,
    cache_bundle: bool = False,
    lora: Lora | None = None,
) -> Manifest:
    """Compile a model into ``target`` and write its manifest.

    Args:
        snapshot: the model.
        request: its options complete.
        exporter: for ``request.accelerator``.
        target: made if need be; must be empty.
        exporting: progress of the export.
        validating: progress of the validation.
        cache_bundle: add torch's compile cache, for replicas that compile just in time.
        lora: adapter to fuse into the weights, where the graphs hold them.

    Raises:
        ExportError: it cannot be compiled, or a graph does not do what the model does.
        LoraError: the adapter cannot be had or does not go with the model.
        CannotRunHereError: the export itself needs a device that this machine lacks.
    """
    from compile.validate import validate

    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise ExportError(f"--out: {target} is not empty")
    if lora is not None and request.accelerator != "neuron":
        raise ExportError(
            f"--lora: graphs for {request.accelerator} take the weights of the loaded model: name"
            " the adapter in the pool's settings (loras, fuse_lora: true)"
        )
    environment = dict(exporter.environment())
    adapter = None if lora is None else record(lora)
    begin = time.monotonic()
    with nullcontext(snapshot) if lora is None else fused(snapshot, lora) as source:
        graphs = exporter.export(source.folder, target, request, exporting)
        exported = time.monotonic()
        records = validate(exporter, source.folder, target, graphs, validating)
    if cache_bundle:
        from compile.cache_bundle import save

        save(snapshot.folder, target, request)
    manifest = Manifest(
        fingerprint=fingerprint(snapshot.model, request, environment, adapter),
        model=snapshot.model,
        lora=adapter,
        accelerator=request.accelerator,
        height=request.height,
        width=request.width,
        batches=request.batches,
        vae_batch=request.vae_batch,
        dtype=request.dtype,
        options=dict(request.options),
        environment=environment,
        graphs=records,
        files=record_files(target),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds={
            "export": round(exported - begin, 1),
            "validate": round(time.monotonic() - exported, 1),
        },
    )
    (target / MANIFEST).write_text(manifest.dump(), encoding="utf-8")
    return manifest
