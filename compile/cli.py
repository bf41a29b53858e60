"""``python -m compile``: compile, publish, look after what is published."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from compile.arguments import parse_arguments
from compile.build import build
from compile.environment import mismatches
from compile.exporters import create_exporter
from compile.exporters.base import CannotRunHereError, ExportError, ExportRequest
from compile.exporters.base import Progress as Report
from compile.lora import Lora, LoraError
from compile.manifest import MANIFEST, ArtifactError, Manifest, parse
from compile.prune import superseded
from compile.registry import Entry, Registry, RegistryError, open_registry
from compile.snapshot import SnapshotError, take

_out = Console()
_err = Console(stderr=True)

_EXPECTED = (
    ArtifactError,
    CannotRunHereError,
    ExportError,
    LoraError,
    RegistryError,
    SnapshotError,
    OSError,
    ValueError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 1 after one line on what is wrong."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    commands = {
        "compile": _compile,
        "list": _list,
        "show": _show,
        "verify": _verify,
        "prune": _prune,
        "publish": _publish_build,
    }
    try:
        return commands[arguments.command](arguments)
    except _EXPECTED as error:
        _err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1


def _compile(arguments: argparse.Namespace) -> int:
    exporter = create_exporter(arguments.accelerator)
    request = ExportRequest(
        accelerator=arguments.accelerator,
        height=arguments.height,
        width=arguments.width,
        batches=arguments.batch,
        vae_batch=arguments.vae_batch,
        dtype=arguments.dtype,
        options=exporter.options(dict(arguments.option)),
    )
    lora = None
    if arguments.lora is not None:
        lora = Lora(
            arguments.lora,
            arguments.lora_revision,
            arguments.lora_weight_name,
            arguments.lora_scale,
        )
    # A registry that is misspelt, or unwritable settings, before an hour of compiling.
    registry = None if arguments.publish is None else open_registry(arguments.publish)
    if registry is None and arguments.out is None:
        raise ValueError("--publish or --out: one needed, else the artifact is lost")
    target = arguments.out or Path(tempfile.mkdtemp(prefix="artifact-"))
    kept = arguments.out is not None
    try:
        with _progress() as bars:
            waiting = bars.add_task("snapshot", total=1, detail="")
            snapshot = take(arguments.model, arguments.revision)
            bars.update(waiting, completed=1, detail=snapshot.model.revision[:19])
            manifest = build(
                snapshot,
                request,
                exporter,
                target,
                _bar(bars, "export"),
                _bar(bars, "validate"),
                cache_bundle=arguments.cache_bundle,
                lora=lora,
            )
            _print_graphs(manifest)
            if registry is not None:
                kept = True  # hours of work, until it is safe
                _publish(registry, target, manifest, bars)
                kept = arguments.out is not None
    except (RegistryError, OSError):
        if kept:
            _err.print(
                f"The build is kept: python -m compile publish {arguments.publish} {target}",
                markup=False,
                soft_wrap=True,
            )
        raise
    finally:
        if not kept:
            shutil.rmtree(target, ignore_errors=True)
    return 0


def _publish_build(arguments: argparse.Namespace) -> int:
    text = (arguments.build / MANIFEST).read_text(encoding="utf-8")
    manifest = parse(text, str(arguments.build))
    with _progress() as bars:
        _publish(open_registry(arguments.registry), arguments.build, manifest, bars)
    return 0


def _publish(registry: Registry, target: Path, manifest: Manifest, bars: Progress) -> None:
    task = bars.add_task("publish", total=1, detail="")
    entry = registry.publish(target, manifest)
    bars.update(task, completed=1)
    _print(f"published {entry.tag}\n       in {registry.source}\n       at {entry.revision}")


def _list(arguments: argparse.Namespace) -> int:
    registry = open_registry(arguments.registry)
    for entry, manifest in _manifests(registry):
        size = sum(file.size for file in manifest.files) / 1e6
        _print(
            f"{entry.tag}  {manifest.model.source} at {manifest.model.revision[:19]},"
            f" {manifest.created}, {len(manifest.graphs)} graphs, {size:.1f} MB"
        )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    registry = open_registry(arguments.registry)
    entry = registry.find(arguments.tag)
    manifest = registry.manifest(entry)
    _print(f"{entry.tag} at {entry.revision}")
    for name in ("fingerprint", "created", "accelerator", "height", "width", "batches", "dtype"):
        _print(f"{name}: {getattr(manifest, name)}")
    _print(f"model: {manifest.model.source} at {manifest.model.revision}")
    if manifest.lora is not None:
        _print(f"lora: sha256 {manifest.lora.sha256}, scale {manifest.lora.scale:g}")
    for name, fact in sorted(manifest.environment.items()):
        _print(f"{name} ({fact.rule}): {fact.value}")
    for name, value in sorted(manifest.options.items()):
        _print(f"option {name}: {value}")
    for file in manifest.files:
        _print(f"file {file.path}: {file.size} bytes, sha256 {file.sha256}")
    _print_graphs(manifest)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    registry = open_registry(arguments.registry)
    entries = [registry.find(tag) for tag in arguments.tag] or registry.entries()
    broken = 0
    for entry in entries:
        try:
            located = registry.fetch(entry)
        except ArtifactError as error:
            broken += 1
            _print(f"{entry.tag}: BROKEN: {error}")
            continue
        _print(f"{entry.tag}: whole; {_runs_here(located.manifest)}")
    return 1 if broken else 0


def _runs_here(manifest: Manifest) -> str:
    try:
        here = create_exporter(manifest.accelerator).environment()
    except Exception as error:  # whatever a device library raises where its device is absent
        return f"not for this machine: no {manifest.accelerator} here ({type(error).__name__})"
    lines = mismatches(manifest.environment, dict(here))
    return "runs here" if not lines else f"not for this machine: {'; '.join(lines)}"


def _prune(arguments: argparse.Namespace) -> int:
    registry = open_registry(arguments.registry)
    manifests = {entry.tag: manifest for entry, manifest in _manifests(registry)}
    for tag in superseded(manifests, arguments.keep):
        if not arguments.dry_run:
            registry.remove(tag)
        _print(f"{'would remove' if arguments.dry_run else 'removed'} {tag}")
    if not arguments.dry_run:
        for name in registry.sweep():
            _print(f"removed unfinished upload {name}")
    return 0


def _manifests(registry: Registry) -> list[tuple[Entry, Manifest]]:
    """Those that can be read; of others a line says why not."""
    found = []
    for entry in registry.entries():
        try:
            found.append((entry, registry.manifest(entry)))
        except (ArtifactError, RegistryError) as error:
            _err.print(f"{entry.tag}: {error}", markup=False, soft_wrap=True)
    return found


def _print_graphs(manifest: Manifest) -> None:
    table = Table("graph", "inputs", "error against eager", box=None)
    for record in manifest.graphs:
        shapes = " ".join("x".join(map(str, one.shape)) for one in record.graph.inputs)
        error = f"not run: {record.not_run}" if record.error is None else f"{record.error:.2g}"
        table.add_row(record.graph.name, shapes, error)
    _out.print(table)


def _print(text: str) -> None:
    _out.print(text, markup=False, highlight=False, soft_wrap=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=_err,
    )


def _bar(bars: Progress, name: str) -> Report:
    task = bars.add_task(name, total=None, detail="")

    def report(what: str, done: int, total: int) -> None:
        bars.update(task, completed=done, total=total, detail=what)

    return report
