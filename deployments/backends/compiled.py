"""A function of tensors, compiled for the shapes it is told beforehand; other shapes run eagerly.

So a request of an unusual size never waits for a compiler: a compilation takes tens of seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from deployments.backends.pipeline import Call, Tensors
from deployments.options import TorchCompile

logger = logging.getLogger(__name__)

# Compiles a function; the result compiles anew for each combination of shapes.
Compile = Callable[[Call], Call]
# Records a warmed call for given inputs; the result takes inputs of the same shapes.
Record = Callable[[Call, Tensors], Call]
Key = tuple[tuple[int, ...] | None, ...]

# A recorded graph must be faster by at least this much to be kept: it has memory of its own.
WORTHWHILE_GAIN = 0.02
_TIMED_CALLS = 5

# Inductor's options beyond its defaults (diffusers' guide to fast inference names them for
# Stable Diffusion). The second set tries kernels out, which takes minutes a graph.
_OPTIONS: dict[str, dict[str, Any]] = {
    "default": {"conv_1x1_as_mm": True, "epilogue_fusion": False},
    "max-autotune": {
        "conv_1x1_as_mm": True,
        "epilogue_fusion": False,
        "max_autotune": True,
        "coordinate_descent_tuning": True,
        "coordinate_descent_check_all_directions": True,
    },
}


def inductor(how: TorchCompile) -> Compile | None:
    """torch.compile for static shapes; ``None`` for ``"off"``."""
    if how == "off":
        return None

    def compile_it(call: Call) -> Call:
        compiled: Call = torch.compile(
            call, fullgraph=True, dynamic=False, options=dict(_OPTIONS[how])
        )
        return compiled

    return compile_it


def freeze() -> None:
    """From now on nothing in this process is compiled outside ``Compiled.warm``: it runs eagerly.

    Inputs that differ from those compiled for in more than their shape (strides, say) would
    otherwise have a request wait for the compiler.
    """
    torch.compiler.set_stance("eager_on_recompile")


class Compiled:
    """Chooses by the inputs' shapes between compiled (or recorded) calls and the plain one.

    Args:
        eager: the function; takes tensors and ``None``, returns a tensor.
        compile_it: compiles it; ``None`` for not at all.
        record: makes a graph of a call, kept where it pays; ``None`` to try none.
        read: waits for the device, so that calls can be timed.
    """

    def __init__(
        self,
        eager: Call,
        compile_it: Compile | None,
        record: Record | None = None,
        read: Callable[[], None] = lambda: None,
    ) -> None:
        self._eager = eager
        self._record = record
        self._read = read
        self._ready: dict[Key, Call] = {}
        self._compiled: Call = eager if compile_it is None else compile_it(eager)
        self.off = compile_it is None and record is None

    @property
    def shapes(self) -> tuple[Key, ...]:
        """Shapes of the inputs for which there is a graph."""
        return tuple(self._ready)

    def __call__(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        """The function's value, by the graph for these shapes if there is one."""
        return self._ready.get(_key(inputs), self._eager)(*inputs)

    def warm(self, *inputs: torch.Tensor | None) -> None:
        """Make the graph for inputs of these shapes and run it.

        Raises:
            torch.OutOfMemoryError: it does not fit.
        """
        key = _key(inputs)
        if self.off or key in self._ready:
            return
        begin = time.monotonic()
        # Each shape is a graph of its own; torch's limit guards against shapes nobody foresaw.
        # The setting holds for this thread alone.
        with (
            torch.compiler.set_stance("default"),
            torch._dynamo.config.patch(
                recompile_limit=len(self._ready) + 64, accumulated_recompile_limit=4096
            ),
        ):
            self._compiled(*inputs)
        self._ready[key] = self._fastest(inputs)
        logger.info("graph for %s: %.1f s", key[0], time.monotonic() - begin)

    def _fastest(self, inputs: Tensors) -> Call:
        if self._record is None:
            return self._compiled
        try:
            recorded = self._record(self._compiled, inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("not recorded, runs without: %s", error)
            return self._compiled
        plain_s, recorded_s = (self._time(call, inputs) for call in (self._compiled, recorded))
        logger.info("recorded %.2f ms, not recorded %.2f ms", recorded_s * 1e3, plain_s * 1e3)
        return recorded if recorded_s < (1 - WORTHWHILE_GAIN) * plain_s else self._compiled

    def _time(self, call: Call, inputs: Tensors) -> float:
        best = float("inf")
        for _ in range(_TIMED_CALLS):
            self._read()
            begin = time.perf_counter()
            call(*inputs)
            self._read()
            best = min(best, time.perf_counter() - begin)
        return best


def _key(inputs: Tensors) -> Key:
    return tuple(None if one is None else tuple(one.shape) for one in inputs)
