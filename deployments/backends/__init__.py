"""Device code, one module per framework, imported only where it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from deployments.options import Framework, ReplicaOptions
from deployments.startup import stage

if TYPE_CHECKING:
    from deployments.backends.base import Backend
    from deployments.backends.packaged import GraphSource

_MODULES: dict[Framework, str] = {
    "cpu": "deployments.backends.cpu",
    "cuda": "deployments.backends.cuda",
    "emulated": "deployments.backends.emulated",
    "neuron": "deployments.backends.neuron",
}


def available_frameworks() -> frozenset[Framework]:
    """Frameworks this build has a backend for (whether or not the hardware is here)."""
    return frozenset(_MODULES)


@contextmanager
def hushed_transformers() -> Iterator[None]:
    """While diffusers is imported: transformers warns of parts without torchvision, unused here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def create_backend(options: ReplicaOptions, graphs: GraphSource | None = None) -> Backend:
    """Import the framework's module and load the model on its device.

    Args:
        options: what the replica was told.
        graphs: compiled ones to run in the place of the model's own parts.

    Raises:
        ValueError: no backend for ``options.framework``.
    """
    if options.framework not in _MODULES:
        raise ValueError(
            f"framework: got {options.framework!r}; this build has {', '.join(sorted(_MODULES))}"
        )
    with stage("import"), hushed_transformers():
        module = import_module(_MODULES[options.framework])
    with stage("load"):
        backend: Backend = module.create(options, graphs)
    return backend
