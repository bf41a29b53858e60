"""Which artifacts of a registry have been superseded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from compile.manifest import Manifest


def superseded(manifests: Mapping[str, Manifest], keep: int) -> list[str]:
    """Tags of all but the newest ``keep`` of each kind.

    Of one kind are those that differ in nothing but what compiled them, and the revision of the
    model: same model, adapter, accelerator, size, batches, dtype, options and device.

    Args:
        manifests: by tag.
        keep: how many of a kind stay, at least 1.
    """
    if keep < 1:
        raise ValueError(f"--keep: got {keep}; at least 1 needed")
    kinds: dict[str, list[str]] = defaultdict(list)
    for tag, manifest in manifests.items():
        kinds[_kind(manifest)].append(tag)
    gone = []
    for tags in kinds.values():
        newest_first = sorted(tags, key=lambda tag: (manifests[tag].created, tag), reverse=True)
        gone += newest_first[keep:]
    return sorted(gone)


def _kind(manifest: Manifest) -> str:
    device = {
        name: fact.value
        for name, fact in manifest.environment.items()
        if name in ("machine", "cpu_isa", "gpu", "instance_type")
    }
    fields = manifest.model_dump(
        include={
            *("accelerator", "height", "width", "batches", "vae_batch", "dtype", "options", "lora")
        }
    )
    return repr((manifest.model.source, sorted(device.items()), sorted(fields.items())))
