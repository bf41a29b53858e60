"""One module per accelerator, imported only where it is used."""

from __future__ import annotations

from importlib import import_module
from typing import get_args

from compile.exporters.base import Accelerator, Exporter


def create_exporter(accelerator: Accelerator) -> Exporter:
    """The exporter of an accelerator.

    Raises:
        ValueError: an accelerator that this build does not know.
    """
    if accelerator not in get_args(Accelerator):
        known = ", ".join(get_args(Accelerator))
        raise ValueError(f"accelerator: got {accelerator!r}; known: {known}")
    exporter: Exporter = import_module(f"compile.exporters.{accelerator}").create()
    return exporter
