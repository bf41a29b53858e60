"""CPU graphs: native code for processors like the one that compiles."""

from __future__ import annotations

from collections.abc import Mapping

from compile.environment import host, packages
from compile.exporters.aot import AotExporter
from compile.exporters.base import Fact


class CpuExporter(AotExporter):
    """See ``AotExporter``."""

    def environment(self) -> Mapping[str, Fact]:
        """See ``Exporter``."""
        import torch

        return {
            "torch": Fact(torch.__version__),
            **host(),
            **packages("diffusers", "transformers"),
        }


def create() -> CpuExporter:
    """The exporter."""
    return CpuExporter()
