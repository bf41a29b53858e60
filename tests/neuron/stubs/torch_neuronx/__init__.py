"""Stand-in for torch-neuronx on a CPU: a trace is TorchScript that insists on its shapes.

It keeps what optimum-neuron's exporter and loader use of the library, and what a device would hold
against them: a graph runs at exactly the shapes it was traced with, ``DataParallel`` splits a batch
over cores, and a graph must be placed on a core that the process owns. It checks no numerics,
memory or speed of a device, and compiles nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import experimental

# What the exporter passed to the compiler, for tests: one entry per trace.
traces: list[dict[str, Any]] = []
_OPTIONS = (
    "compiler_args",
    "input_output_aliases",
    "inline_weights_to_neff",
    "cpu_backend",
    "compiler_workdir",
)


class _Static(torch.nn.Module):
    """A traced module behind a scripted check of each input's shape and dtype."""

    def __init__(self, traced: Any, shapes: list[list[int]], kinds: list[torch.Tensor]) -> None:
        super().__init__()
        self.traced = traced
        self.shapes = shapes
        self.kinds = kinds  # empty tensors: TorchScript keeps no list of dtypes

    def check(self, inputs: list[torch.Tensor]) -> None:
        if len(inputs) != len(self.shapes):
            raise RuntimeError(f"received {len(inputs)} inputs, expected {len(self.shapes)}")
        for i in range(len(inputs)):
            if list(inputs[i].shape) != self.shapes[i]:
                raise RuntimeError(
                    f"input {i}: received {inputs[i].shape}, expected {self.shapes[i]}"
                )
            if inputs[i].dtype != self.kinds[i].dtype:
                raise RuntimeError(f"input {i}: received dtype {inputs[i].dtype}")


class _One(_Static):
    def forward(self, a: torch.Tensor):  # type: ignore[no-untyped-def]
        self.check([a])
        return self.traced(a)


class _Three(_Static):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor):  # type: ignore[no-untyped-def]
        self.check([a, b, c])
        return self.traced(a, b, c)


class _Five(_Static):
    def forward(  # type: ignore[no-untyped-def]
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
        d: torch.Tensor,
        e: torch.Tensor,
    ):
        self.check([a, b, c, d, e])
        return self.traced(a, b, c, d, e)


_BY_INPUTS = {1: _One, 3: _Three, 5: _Five}


def trace(func: Any, example_inputs: Any, **options: Any) -> torch.jit.ScriptModule:
    """As torch-neuronx's, in the options that it takes; an unknown one is an error."""
    unknown = set(options) - set(_OPTIONS)
    if unknown:
        raise TypeError(f"torch_neuronx.trace: unknown arguments {sorted(unknown)}")
    inputs = tuple(example_inputs)
    if options.get("compiler_workdir") is not None:  # neuronx-cc leaves its intermediate files here
        work = Path(options["compiler_workdir"])
        work.mkdir(parents=True, exist_ok=True)
        (work / "graph.hlo").write_text("stand-in")
    with torch.no_grad():
        traced = torch.jit.trace(func, inputs, strict=False, check_trace=False)
    environment = {k: v for k, v in os.environ.items() if k.startswith("NEURON_")}
    shapes = [list(one.shape) for one in inputs]
    traces.append({**options, "shapes": shapes, "environment": environment})
    static = _BY_INPUTS[len(inputs)](traced, shapes, [one.new_empty(0) for one in inputs])
    return torch.jit.script(static)


def async_load(module: Any, enable: bool = True) -> None:
    """Only tells a device how to load."""


def lazy_load(module: Any, enable: bool = True) -> None:
    """Only tells a device when to load."""


def dynamic_batch(module: Any) -> Any:
    """Not stood in for: static batches are the point."""
    raise NotImplementedError("dynamic_batch")


def move_trace_to_device(module: Any, device_id: int) -> None:
    """Places a graph whose weights are not inside it."""
    experimental.set_neuron_cores(module, device_id, 1)


class DataParallel:
    """Splits dimension 0 evenly over cores; statically, so that each gets what was traced."""

    def __init__(
        self,
        model: Any,
        device_ids: Sequence[int] | None = None,
        dim: int = 0,
        set_dynamic_batching: bool = True,
    ) -> None:
        if set_dynamic_batching:
            raise NotImplementedError("dynamic batching")
        self.device_ids = list(device_ids or [0])
        for core in self.device_ids:
            experimental.set_neuron_cores(model, core, 1)
        self.model = model
        self.dim = dim

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """One call per core, put together again."""
        parts = zip(*(one.chunk(len(self.device_ids), self.dim) for one in inputs), strict=True)
        outputs = [self.model(*part) for part in parts]
        return _together(outputs, self.dim)


def _together(outputs: list[Any], dim: int) -> Any:
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(outputs, dim)
    if isinstance(first, dict):
        return {key: _together([one[key] for one in outputs], dim) for key in first}
    return tuple(_together([one[i] for one in outputs], dim) for i in range(len(first)))
