"""The artifact that a replica is to run: found, checked against this machine, brought here."""

from __future__ import annotations

from compile.exporters import create_exporter
from compile.exporters.base import Accelerator
from compile.lora import Lora, record
from compile.manifest import (
    ArtifactError,
    LoraRecord,
    MismatchError,
    ModelRecord,
    Wanted,
    check,
)
from compile.registry import Entry, Located, NotPublishedError, Registry, open_registry
from compile.snapshot import content_digest, local_folder
from deployments.model_info import ModelInfo
from deployments.options import ArtifactOptions, Framework, ReplicaOptions

_ACCELERATORS: dict[Framework, Accelerator] = {
    "cpu": "cpu",
    "cuda": "cuda",
    "neuron": "neuron",
    "emulated": "cpu",
}
# So many reasons are told why none of a registry's artifacts fits.
_TOLD = 5


def fetch(options: ReplicaOptions, artifact: ArtifactOptions, info: ModelInfo) -> Located:
    """The artifact named, or the newest that fits; every file checked.

    Raises:
        MismatchError: it was made for something else; names the fields.
        ArtifactError: a file is missing or changed.
        RegistryError: no such artifact, or the registry cannot be reached.
        ValueError: ``artifact.source`` is neither a folder nor a hub id.
        OSError: the disk is full.
    """
    registry = open_registry(artifact.source)
    wanted = _wanted(options, info)
    if artifact.tag is None:
        return registry.fetch(_newest(registry, wanted))
    entry = registry.find(artifact.tag, artifact.revision)
    check(registry.manifest(entry), wanted)
    return registry.fetch(entry)


def _wanted(options: ReplicaOptions, info: ModelInfo) -> Wanted:
    accelerator = _ACCELERATORS[options.framework]
    folder = local_folder(options.model_source)
    # A folder has no commit: what it holds is its revision, and all of it.
    revision = info.revision if folder is None else content_digest(folder)
    # A Neuron pool paints the compiled size and says so; elsewhere other sizes run without graphs,
    # so that graphs of another size than the usual one would hardly ever run.
    any_size = accelerator == "neuron"
    return Wanted(
        model=ModelRecord(source=options.model_source, revision=revision),
        accelerator=accelerator,
        height=None if any_size else info.defaults.height,
        width=None if any_size else info.defaults.width,
        dtype=options.dtype,
        environment=dict(create_exporter(accelerator).environment()),
        lora=_compiled_in(options) if accelerator == "neuron" else None,
    )


def _compiled_in(options: ReplicaOptions) -> LoraRecord | None:
    """The adapter that must be in the graphs; others take the loaded model's weights."""
    if not options.loras:
        return None
    (one,) = options.loras
    return record(Lora(one.source, one.revision, one.weight_name, one.scale))


def _newest(registry: Registry, wanted: Wanted) -> Entry:
    reasons, fitting = [], list[tuple[str, Entry]]()
    for entry in registry.entries():
        try:
            manifest = registry.manifest(entry)
            check(manifest, wanted)
        except MismatchError as error:
            reasons.append(str(error))
        except (ArtifactError, NotPublishedError) as error:  # someone else's tag in the repository
            reasons.append(f"{entry.tag}: {error}")
        else:
            fitting.append((manifest.created, entry))
    if not fitting:
        told = "; ".join(reasons[:_TOLD]) or "it is empty"
        raise NotPublishedError(
            f"registry {registry.source}: none of {len(reasons)} artifacts fits: {told}"
        )
    return max(fitting, key=lambda one: (one[0], one[1].tag))[1]
