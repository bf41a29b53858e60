"""CUDA graphs: for one kind of GPU, with channels-last weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.environment import host, packages
from compile.exporters.aot import AotExporter
from compile.exporters.base import ExportError, Fact

if TYPE_CHECKING:
    import torch

# Where the kernel's module, or its older form, tells its version; visible in containers.
_DRIVER = (Path("/sys/module/nvidia/version"), Path("/proc/driver/nvidia/version"))
_FLAGS = ("max_autotune", "coordinate_descent_tuning")


class CudaExporter(AotExporter):
    """See ``AotExporter``."""

    device = "cuda"

    def options(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """See ``Exporter``; Inductor's searches for faster kernels, off unless asked for."""
        options = dict.fromkeys(_FLAGS, "false")
        for name, value in given.items():
            if name not in options:
                raise ExportError(f"--option: unknown option {name!r}; known: {', '.join(_FLAGS)}")
            if value not in ("true", "false"):
                raise ExportError(f"--option: {name}: got {value!r}; true or false needed")
            options[name] = value
        return options

    def environment(self) -> Mapping[str, Fact]:
        """See ``Exporter``."""
        import torch

        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        major, minor = torch.cuda.get_device_capability()
        return {
            "torch": Fact(torch.__version__),
            "cuda": Fact(str(torch.version.cuda)),
            "cudnn": Fact(str(cudnn)),
            "gpu": Fact(torch.cuda.get_device_name()),
            "gpu_architecture": Fact(f"sm_{major}{minor}"),
            "driver": Fact(driver_version(_DRIVER), "at_least"),
            **{name: Fact(fact.value) for name, fact in packages("triton").items()},
            **host(),
            **packages("diffusers", "transformers"),
        }

    def inductor_configs(self, options: Mapping[str, str]) -> Mapping[str, Any]:
        """See ``AotExporter``."""
        return {name: options[name] == "true" for name in _FLAGS}

    def arrange(self, module: torch.nn.Module) -> torch.nn.Module:
        """Channels last: what tensor cores convolve without copying."""
        import torch

        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def available(self) -> bool:
        """See ``AotExporter``."""
        import torch

        return torch.cuda.is_available()


def driver_version(files: tuple[Path, ...]) -> str:
    """The NVIDIA driver's version, from the first file that there is.

    Args:
        files: one with the bare version, one with it in a sentence.
    """
    for path in files:
        if path.is_file():
            found = re.search(r"\d+\.\d+(\.\d+)*", path.read_text(encoding="utf-8"))
            if found:
                return found.group()
    return "(unknown)"


def create() -> CudaExporter:
    """The exporter."""
    return CudaExporter()
