"""Between the steps the host never waits for the device.

The ``meta`` device stands in for one that works asynchronously: its tensors have no values, so that
whatever reads one raises. Copies that would block, and solvers that look at their outcome, are
told by the operators that run.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from deployments.backends.base import DenoiseBatch
from deployments.engine.inpainting import Kept
from deployments.engine.job import Job
from deployments.engine.trajectory import Trajectory, make_scheduler
from deployments.engine.transfer import (
    HostScalars,
    Pace,
    SideQueue,
    mark,
    own_queue,
    to_device,
)
from deployments.messages import SchedulerName
from tests.deployments.harness import Bench, FakeBackend, ask
from tests.deployments.test_oracle import NAMES

META = torch.device("meta")


class Waits(TorchDispatchMode):
    """Collects the operators for which a host would wait on a real device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        name = str(func)
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        there = any(x.device == META for x in tensors)
        goes_there = named.get("device") == META or META in args
        # In inference mode the second is not taken apart into the first.
        if name.startswith(("aten._to_copy", "aten.to.")) and not there and goes_there:
            if not named.get("non_blocking"):
                self.found.append(f"blocking copy of {tuple(tensors[0].shape)}")
        elif there and name.startswith("aten.copy_") and tensors[1].device != META:
            self.found.append(f"blocking copy of {tuple(tensors[1].shape)}")
        if there and ("linalg" in name or "nonzero" in name or "_local_scalar" in name):
            self.found.append(name)
        return func(*args, **named)


class Nowhere(FakeBackend):
    """Computes without values."""

    def __init__(self) -> None:
        super().__init__()
        self.change(device="meta")

    def denoise(self, batch: DenoiseBatch) -> torch.Tensor:
        assert batch.timesteps.device == META
        self.batches.append(batch.latents.shape[0])
        return torch.empty_like(batch.latents)


@pytest.mark.parametrize("guided", [True, False])
def test_no_scheduler_makes_the_engine_wait(guided: bool) -> None:
    backend = Nowhere()
    backend.change(scheduler=PNDMScheduler(skip_prk_steps=True))
    bench = Bench(backend, max_rows=2 * len(NAMES))
    finished: list[Job] = []

    def take(jobs: list[Job], ready: Any = None) -> None:
        finished.extend(jobs)

    bench.engine._decoder._run = take  # type: ignore[method-assign, assignment]
    asked = [
        ask(scheduler=name, guidance_scale=5.0 if guided else 1.0, num_inference_steps=5)
        for name in NAMES
    ]
    for request in asked:
        bench.submit(request)
    with Waits() as waits:
        bench.run()
    assert waits.found == []
    assert {job.request.request_id for job in finished} == {r.request_id for r in asked}
    assert all(not answers for answers in bench.answers.values())


@pytest.mark.parametrize("inpainting", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_neither_does_image_to_image(name: SchedulerName, inpainting: bool) -> None:
    own = PNDMScheduler(skip_prk_steps=True)
    with torch.inference_mode():
        path = Trajectory(
            scheduler=make_scheduler(name, own),
            steps=10,
            strength=0.7,
            init_latents=torch.zeros(1, 4, 8, 8, device=META),
            fresh=False,
            shape=(1, 4, 8, 8),
            dtype=torch.float32,
            device=META,
            generator=torch.Generator().manual_seed(0),
        )
        if inpainting:
            path.keep(Kept(torch.zeros(1, 1, 8, 8, device=META), path.latents))
        assert all(x is None or x.device == META for x in path.tensors)
        with Waits() as waits:
            while path.remaining:
                sample, t = path.model_input()
                assert t.device.type == "cpu"
                assert path.clean(sample).device == META  # of a preview
                path.advance(torch.empty_like(sample))
    assert waits.found == []


def test_without_help_schedulers_do_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two tests above can fail."""
    monkeypatch.setattr(
        "deployments.engine.trajectory.HostScalars", lambda device: torch.device("cpu")
    )
    for name, what in (("unipc", "blocking copy of ()"), ("euler_a", "blocking copy of (1, 4")):
        backend = Nowhere()
        bench = Bench(backend)
        bench.engine._decoder._run = lambda *_: None  # type: ignore[method-assign, assignment]
        bench.submit(ask(scheduler=name))
        with Waits() as waits:
            bench.run()
        assert any(found.startswith(what) for found in waits.found), (name, waits.found)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_kept_on_the_host_change_no_bit(name: SchedulerName) -> None:
    def walk(help_it: bool) -> torch.Tensor:
        own = PNDMScheduler(skip_prk_steps=True)
        with torch.inference_mode():
            path = Trajectory(
                scheduler=make_scheduler(name, own),
                steps=7,
                strength=None,
                init_latents=None,
                fresh=True,
                shape=(1, 4, 8, 8),
                dtype=torch.bfloat16,
                device=torch.device("cpu"),
                generator=torch.Generator().manual_seed(3),
            )
            if help_it:
                path._without_waiting = lambda: HostScalars(torch.device("cpu"))  # type: ignore[method-assign]
            while path.remaining:
                sample, t = path.model_input()
                path.advance(sample * 0.3 + t.to(sample.dtype) / 1000)
            return path.latents

    assert torch.equal(walk(True), walk(False))


def test_devices_without_queues_need_no_marks() -> None:
    for device in (torch.device("cpu"), META):
        own_queue(device)
        assert mark(device) is None
    tensor = torch.ones(3)
    assert to_device(tensor, torch.device("cpu")) is tensor
    assert to_device(tensor, META).device == META


class FakeEvent:
    def __init__(self, waited: list[int], number: int) -> None:
        self.waited, self.number = waited, number

    def synchronize(self) -> None:
        self.waited.append(self.number)


def test_the_host_runs_one_step_ahead_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    made = itertools.count()
    monkeypatch.setattr(
        "deployments.engine.transfer.mark", lambda device: FakeEvent(waited, next(made))
    )
    pace = Pace(META)
    seen = []
    for _ in range(4):
        pace.keep()
        seen.append(list(waited))
    assert seen == [[], [0], [0, 1], [0, 1, 2]]


def test_what_is_prepared_beside_the_steps_is_there_when_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name, self.device = name, META

        def synchronize(self) -> None:
            log.append(f"wait {self.name}")

    current = [Stream("main")]

    class Kept:
        def record_stream(self, stream: Stream) -> None:
            log.append(f"keep for {stream.name}")

    monkeypatch.setattr("deployments.engine.transfer._has_queues", lambda device: True)
    monkeypatch.setattr(torch, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device=None: current[0])
    monkeypatch.setattr(
        torch.accelerator, "set_stream", lambda stream: current.__setitem__(0, stream)
    )
    queue = SideQueue(META)
    tensor: Any = Kept()
    with queue.use():
        assert current[0].name == "side"
        queue.hand_over(tensor, None)
    assert current[0].name == "main"
    assert log == ["keep for main", "wait side"]
