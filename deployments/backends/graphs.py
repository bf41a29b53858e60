"""CUDA graphs: one launch in place of hundreds, for a call whose shapes never change."""

from __future__ import annotations

from collections.abc import Callable

import torch

from deployments.backends.pipeline import Call, Tensors

_WARM_CALLS = 3


class CudaGraphs:
    """Records calls as CUDA graphs that share one pool of memory.

    torch.compile's own (``mode="reduce-overhead"``) keep their state per thread, and here the
    thread that warms is not the one that steps.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Call, inputs: Tensors) -> Call:
        """Record ``call`` for inputs of these shapes.

        Raises:
            torch.OutOfMemoryError: the graph's memory does not fit.
            RuntimeError: it does something that cannot be recorded.
        """
        held = tuple(None if one is None else one.clone() for one in inputs)
        side: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_CALLS):
                call(*held)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        shortage: torch.OutOfMemoryError | None = None
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                try:
                    out = call(*held)
                except torch.OutOfMemoryError as error:
                    shortage = error
                    raise
        except RuntimeError:
            # Ending a recording that failed raises an error of its own in the place of the cause.
            if shortage is not None:
                raise shortage from None
            raise
        return replayed(graph.replay, held, out)


def replayed(replay: Callable[[], None], held: Tensors, out: torch.Tensor) -> Call:
    """A call that fills the held inputs, replays, and copies the result out.

    Args:
        replay: computes ``out`` from ``held``.
        held: the graph's inputs.
        out: the graph's output; the next replay, of any graph of the pool, writes over it.
    """

    def call(*inputs: torch.Tensor | None) -> torch.Tensor:
        for mine, given in zip(held, inputs, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        replay()
        return out.clone()

    return call
