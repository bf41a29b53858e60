"""The exporter of CPU and CUDA: one AOTInductor package per part and batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.exporters.base import (
    CannotRunHereError,
    Component,
    DType,
    ExportedGraph,
    ExportError,
    ExportRequest,
    Fact,
    Progress,
    Tensors,
)
from compile.parts import ModelShape, Part

if TYPE_CHECKING:
    import torch

# Largest error over largest value, against the eager model in single precision.
TOLERANCES: dict[DType, float] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 8e-2}


class AotExporter(ABC):
    """See ``Exporter``; its subclasses say what differs by device."""

    device = "cpu"

    def __init__(self) -> None:
        self._loaded: dict[tuple[Path, Component, DType], torch.nn.Module] = {}

    def options(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """See ``Exporter``; none here."""
        for name in given:
            raise ExportError(f"--option: unknown option {name!r}; there is none for {self.device}")
        return {}

    @abstractmethod
    def environment(self) -> Mapping[str, Fact]:
        """See ``Exporter``."""

    def export(
        self, snapshot: Path, target: Path, request: ExportRequest, progress: Progress
    ) -> Sequence[ExportedGraph]:
        """See ``Exporter``."""
        from compile.examples import make_inputs
        from compile.inductor import compile_package

        self._check_device()
        _check_compiler()
        shape = ModelShape(snapshot)
        parts = shape.parts(request)
        graphs = []
        for done, part in enumerate(parts):
            progress(part.name, done, len(parts))
            dtype = _weights_dtype(part, request.dtype, shape)
            module = self._module(snapshot, part.component, dtype)
            examples = make_inputs(part.inputs, snapshot, seed=0)
            inputs = [examples[one.name].to(self.device) for one in part.inputs]
            path = target / f"{part.name}.pt2"
            compile_package(module, inputs, path, self.inductor_configs(request.options))
            graphs.append(
                ExportedGraph(
                    name=part.name,
                    component=part.component,
                    batch=part.batch,
                    path=path.name,
                    inputs=part.inputs,
                    outputs=part.outputs,
                    tolerance=TOLERANCES[dtype],
                )
            )
        progress("done", len(parts), len(parts))
        return graphs

    def run(
        self, snapshot: Path, target: Path, graph: ExportedGraph, inputs: Tensors
    ) -> Mapping[str, torch.Tensor]:
        """See ``Exporter``."""
        import torch

        from compile.inductor import PackagedGraph

        self._check_device()
        dtype: Any = graph.outputs[0].dtype
        module = self._module(snapshot, graph.component, dtype)
        loaded = PackagedGraph(target / graph.path, module)
        with torch.no_grad():
            found = loaded(*(inputs[one.name].to(self.device) for one in graph.inputs))
        pairs = zip(graph.outputs, found, strict=True)
        return {one.name: tensor.cpu() for one, tensor in pairs}

    def inductor_configs(self, options: Mapping[str, str]) -> Mapping[str, Any]:
        """Inductor's settings for this device."""
        return {}

    def arrange(self, module: torch.nn.Module) -> torch.nn.Module:
        """Lay the weights out as the compiled code should find them."""
        return module

    def available(self) -> bool:
        """Whether this machine has the device."""
        return True

    def _module(self, snapshot: Path, component: Component, dtype: DType) -> torch.nn.Module:
        import torch

        from compile.modules import load

        key = (snapshot, component, dtype)
        if key not in self._loaded:
            self._loaded.clear()  # one part at a time: an SDXL fills a GPU
            module = load(snapshot, component, dtype, torch.device(self.device))
            self._loaded[key] = self.arrange(module)
        return self._loaded[key]

    def _check_device(self) -> None:
        if not self.available():
            raise CannotRunHereError(f"torch sees no {self.device} device here")


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ExportError("no C++ compiler here: install g++ (Debian: apt install g++)") from error


def _weights_dtype(part: Part, dtype: DType, shape: ModelShape) -> DType:
    return shape.vae_dtype(dtype) if part.component == "vae_decoder" else dtype
