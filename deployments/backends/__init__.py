"""Device code, one module per framework, imported only where it runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from deployments.options import Framework, ReplicaOptions

if TYPE_CHECKING:
    from deployments.backends.base import Backend

_MODULES: dict[Framework, str] = {
    "cpu": "deployments.backends.cpu",
    "cuda": "deployments.backends.cuda",
}


def available_frameworks() -> frozenset[Framework]:
    """Frameworks this build has a backend for (whether or not the hardware is here)."""
    return frozenset(_MODULES)


def create_backend(options: ReplicaOptions) -> Backend:
    """Import the framework's module and load the model on its device.

    Raises:
        ValueError: no backend for ``options.framework``.
    """
    if options.framework not in _MODULES:
        raise ValueError(
            f"framework: got {options.framework!r}; this build has {', '.join(sorted(_MODULES))}"
        )
    module = import_module(_MODULES[options.framework])
    backend: Backend = module.create(options)
    return backend
