"""Keeping the host from waiting for a device that works asynchronously.

A blocking copy or a value read back makes the host wait for everything queued on the device; the
device then idles while the host prepares the next step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Where tensors are computed in order with the host, or not at all.
_SYNCHRONOUS = frozenset({"cpu", "meta"})


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on ``device``, copied without waiting for what is queued there."""
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    source = tensor if device.type in _SYNCHRONOUS else tensor.pin_memory()
    # The allocator keeps pinned memory until the copy that reads it has been made.
    return source.to(device, non_blocking=True)


class HostScalars(TorchFunctionMode):
    """While a scheduler steps: numbers stay on the host, arrays go to the device without waiting.

    diffusers' schedulers compute their coefficients on the host and some (UniPC) send each number
    to the device, solve a 2 x 2 system there and so wait several times a step; noise from a host
    generator is sent with a blocking copy. A 0-dimensional host tensor takes part in arithmetic
    on a device as it is, with the same type promotion.

    Args:
        device: where the latents are.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See ``TorchFunctionMode``."""
        named = dict(kwargs or {})
        if func is torch.Tensor.to and args[0].device.type == "cpu":
            target = named.pop("device", None)
            rest = list(args[1:])
            if target is None and rest and isinstance(rest[0], str | torch.device):
                target = rest.pop(0)
            if target is not None:
                if args[0].dim():
                    return to_device(args[0].to(*rest, **named), torch.device(target))
                return args[0].to(*rest, **named) if rest or named else args[0]
        elif func is torch.ones and args and args[0] == ():
            named["device"] = "cpu"
        return func(*args, **named)


def own_queue(device: torch.device) -> None:
    """Give the calling thread a queue of its own on the device, if the device has queues."""
    if _has_queues(device):
        torch.accelerator.set_stream(torch.Stream(device))


def mark(device: torch.device) -> torch.Event | None:
    """A point in the calling thread's queue, for another thread or queue to wait for."""
    if not _has_queues(device):
        return None
    event = torch.Event(device, blocking=True)
    event.record()
    return event


class SideQueue:
    """Work beside the steps whose results the steps then use.

    On the steps' own queue it would have to wait for all that is queued there, each time it reads
    a value. Made in a thread whose queue is the one that uses the results.
    """

    def __init__(self, device: torch.device) -> None:
        self._main: torch.Stream | None = None
        if _has_queues(device):
            self._main = torch.accelerator.current_stream(device)
            self._side = torch.Stream(device)

    @contextmanager
    def use(self) -> Iterator[None]:
        """What is computed inside is queued here; it is there once ``hand_over`` returns."""
        if self._main is None:
            yield
            return
        before = torch.accelerator.current_stream(self._main.device)
        torch.accelerator.set_stream(self._side)
        try:
            yield
        finally:
            torch.accelerator.set_stream(before)

    def hand_over(self, *tensors: torch.Tensor | None) -> None:
        """Wait for what is queued here; the tensors' memory is not reused while steps read it."""
        if self._main is None:
            return
        for tensor in tensors:
            if tensor is not None:
                tensor.record_stream(self._main)
        self._side.synchronize()


class Pace:
    """Lets the host queue one step ahead of the device, and no more.

    Without it the host would queue steps as fast as it can: what arrives would join many steps
    late, and a device that hangs would not be noticed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: deque[torch.Event] = deque()

    def keep(self) -> None:
        """Called when a step has been queued: returns once the step before it is done."""
        now = mark(self._device)
        if now is None:
            return
        self._marks.append(now)
        if len(self._marks) > 1:
            self._marks.popleft().synchronize()


def _has_queues(device: torch.device) -> bool:
    if device.type in _SYNCHRONOUS or not torch.accelerator.is_available():
        return False
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and accelerator.type == device.type
