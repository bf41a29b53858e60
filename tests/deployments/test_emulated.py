"""The emulated backend: the CPU's pictures, at the pretended speed."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from deployments.backends import available_frameworks, emulated
from deployments.backends.emulated import EmulatedBackend, create
from deployments.engine.calibration import blank_batch, time_rows
from deployments.options import ReplicaOptions
from tests.deployments.conftest import MakeBackend


def test_a_step_takes_its_time_and_no_longer(make_backend: MakeBackend) -> None:
    backend: Any = make_backend("sd1")
    slowed = EmulatedBackend(backend, 0.2)
    cost_ms = time_rows(slowed, backend.encode_prompt(""), 16, 16, 2)
    # Back to back, but for what calling takes.
    assert 195 <= cost_ms < 300


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("between", "expected"),
    [(0.0, 0.4), (0.1, 0.3), (0.3, 0.2), (0.5, 0.4)],
    ids=["none", "made up for", "no more than half", "that was idleness"],
)
def test_the_hosts_work_between_steps_is_made_up_for(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, between: float, expected: float
) -> None:
    backend: Any = make_backend("sd1")
    clock = Clock()
    monkeypatch.setattr(emulated, "time", clock)
    slowed = EmulatedBackend(backend, 0.4)
    batch = blank_batch(backend.facts, backend.encode_prompt(""), 16, 16, 2)
    slowed.denoise(batch)
    assert clock.now == pytest.approx(1000.4)
    clock.sleep(between)
    began = clock.now
    slowed.denoise(batch)
    assert clock.now - began == pytest.approx(expected)


def test_a_step_that_takes_longer_anyway_is_not_slowed(make_backend: MakeBackend) -> None:
    backend: Any = make_backend("sd1")
    began = time.monotonic()
    EmulatedBackend(backend, 1e-6).encode_prompt("a")
    time_rows(EmulatedBackend(backend, 1e-6), backend.encode_prompt(""), 16, 16, 2)
    assert time.monotonic() - began < 5


def test_pictures_are_those_of_the_backend_inside(make_backend: MakeBackend) -> None:
    backend: Any = make_backend("sd1")
    slowed = EmulatedBackend(backend, 0.001)
    assert slowed.facts is backend.facts
    latents = torch.randn(1, slowed.facts.latent_channels, 8, 8)
    ours, theirs = slowed.decode(latents)[0], backend.decode(latents)[0]
    assert ours is not None
    assert (ours == theirs).all()
    picture = ours[: ours.shape[0] // 8 * 8, : ours.shape[1] // 8 * 8]
    one, two = (
        b.encode_image(picture, torch.Generator().manual_seed(1)) for b in (slowed, backend)
    )
    assert torch.equal(one, two)


def test_it_is_a_framework_that_needs_a_speed() -> None:
    assert "emulated" in available_frameworks()
    options = ReplicaOptions(
        pool="p", accelerator="a", framework="emulated", model_source="embedded"
    )
    with pytest.raises(ValueError, match="emulated_step_s: missing"):
        create(options)
