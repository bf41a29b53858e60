"""The emulated backend: the CPU's pictures, at the pretended speed."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from deployments.backends import available_frameworks
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


def test_the_hosts_work_between_steps_is_made_up_for(make_backend: MakeBackend) -> None:
    backend: Any = make_backend("sd1")
    text = backend.encode_prompt("")
    slowed = EmulatedBackend(backend, 0.4)
    batch = blank_batch(backend.facts, text, 16, 16, 2)

    def step_s() -> float:
        began = time.monotonic()
        slowed.denoise(batch)
        return time.monotonic() - began

    assert step_s() >= 0.4
    time.sleep(0.1)
    assert step_s() <= 0.35
    time.sleep(0.3)
    assert step_s() >= 0.2  # no more than half
    time.sleep(0.45)
    assert step_s() >= 0.4  # that was idleness


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
