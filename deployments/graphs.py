"""Which compiled graphs a replica runs: an artifact's, ones compiled just in time, or none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from compile.exporters.base import ExportRequest
from compile.manifest import ArtifactError
from compile.registry import RegistryError
from deployments.artifact import fetch
from deployments.backends import hushed_transformers
from deployments.model_info import ModelInfo
from deployments.options import ReplicaOptions
from deployments.startup import stage

if TYPE_CHECKING:
    from deployments.backends.packaged import GraphSource

logger = logging.getLogger(__name__)


def choose_graphs(options: ReplicaOptions, info: ModelInfo) -> GraphSource | None:
    """What ``options.artifact`` asks for; ``None``: nothing, the backend does as it does.

    Raises:
        RuntimeError: the artifact cannot be used, and the settings say to refuse then.
    """
    artifact = options.artifact
    if artifact is None:
        return None
    with stage("import"), hushed_transformers():
        from deployments.backends.packaged import JustInTime, Packaged

    try:
        located = fetch(options, artifact, info)
    except (ArtifactError, RegistryError, OSError, ValueError) as error:
        if artifact.fallback == "refuse":
            raise RuntimeError(
                f"pool {options.pool!r}: artifact: {error} (fallback: refuse)"
            ) from error
        logger.warning("pool %s: compiling just in time: %s", options.pool, error)
        request = ExportRequest(
            accelerator="cuda" if options.framework == "cuda" else "cpu",
            height=info.defaults.height,
            width=info.defaults.width,
            batches=powers_of_two(options.max_rows),
        )
        return JustInTime(request, str(error))
    manifest = located.manifest
    request = ExportRequest(
        accelerator=manifest.accelerator,
        height=manifest.height,
        width=manifest.width,
        batches=manifest.batches,
        vae_batch=manifest.vae_batch,
    )
    if artifact.load == "graphs":
        return Packaged(located, JustInTime(request, "") if artifact.fallback == "jit" else None)
    why, strict = f"with the compile cache of {located.entry.tag}", artifact.fallback == "refuse"
    return JustInTime(request, why, located.folder, strict=strict)


def powers_of_two(most: int) -> tuple[int, ...]:
    """2, 4, 8, … and ``most`` itself."""
    sizes = [2]
    while sizes[-1] * 2 < most:
        sizes.append(sizes[-1] * 2)
    return tuple(sorted({*sizes, most}))
