"""Real exporter, real loader, our backend and engine: the pictures of stock diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.backends.base import DenoiseBatch
from deployments.backends.neuron import NeuronBackend
from deployments.backends.pipeline import PipelineBackend
from deployments.messages import ImageRequest
from deployments.model import load_pipeline
from tests.deployments.harness import Bench, ask, solo
from tests.deployments.test_oracle import assert_same_picture, far, requests, stock
from tests.neuron.conftest import ROWS, Build, export

EMBEDDED = Path(__file__).resolve().parents[2] / "models" / "embedded"


class Watched(NeuronBackend):
    """Keeps the timesteps of each step."""

    def __init__(self, folder: Path, cores: tuple[int, ...]) -> None:
        super().__init__(folder, cores)
        self.steps: list[list[float]] = []

    def denoise(self, batch: DenoiseBatch) -> torch.Tensor:
        self.steps.append(batch.timesteps.tolist())
        return super().denoise(batch)


def reference(folder: Path) -> PipelineBackend:
    return PipelineBackend(
        load_pipeline(str(folder), None),
        device=torch.device("cpu"),
        dtype=torch.float32,
        fixed_rows=None,
        decode_batch=1,
        overlap_decode=False,
    )


@pytest.mark.parametrize(
    ("kind", "visible"),
    [("sd1", "3"), ("sd2", "0"), ("sdxl", "1"), ("sd1", "2,3"), ("sdxl", "4-5")],
)
def test_mixed_requests_in_one_static_batch(
    kind: Any, visible: str, build: Build, cores: Callable[[str], None]
) -> None:
    cores(visible)
    built = build(kind)
    count = 1 if visible.isdecimal() else 2
    backend = Watched(built.folder, tuple(range(count)))
    truth = reference(built.snapshot)
    asked = requests(kind) if count == 1 else requests(kind)[::2]

    bench = Bench(backend)
    for request in asked:  # one joins at each step
        bench.submit(request)
        bench.engine.step()
    bench.run()

    assert {len(rows) for rows in backend.steps} == {ROWS * count}
    # Guided and unguided ones at three and more different timesteps in one call.
    assert max(len(set(rows) - {0.0}) for rows in backend.steps) >= 3
    for request in asked:
        latents, pixels = stock(truth, request)
        distance = far(bench.latents[request.request_id], latents)
        assert distance <= 1e-4, (distance, request)
        assert_same_picture(bench.picture(request), pixels, request)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_company_changes_no_bit(kind: Any, build: Build, cores: Callable[[str], None]) -> None:
    cores("0")
    backend = NeuronBackend(build(kind).folder, (0,))
    asked = requests(kind)[::5]
    alone = {request.request_id: solo(backend, request) for request in asked}
    bench = Bench(backend)
    for request in asked:
        bench.submit(request)
    bench.run()
    for request in asked:
        latents, pixels = alone[request.request_id]
        assert torch.equal(bench.latents[request.request_id], latents)
        assert bench.picture(request) == pixels


def test_a_long_prompt_is_cut_as_ever(build: Build, cores: Callable[[str], None]) -> None:
    cores("0")
    built = build("sdxl")
    backend = NeuronBackend(built.folder, (0,))
    assert backend.encode_prompt("word " * 40).truncated
    assert not backend.encode_prompt("a").truncated
    request = ask(prompt="word " * 40)
    assert_same_picture(
        solo(backend, request)[1], stock(reference(built.snapshot), request)[1], request
    )


def test_a_trained_model_paints_the_same(tmp_path: Path, cores: Callable[[str], None]) -> None:
    """The embedded model: a real tokenizer, weights that mean something."""
    cores("0")
    built = export(EMBEDDED, tmp_path / "out", side=64, rows=4, auto_cast="none")
    backend = NeuronBackend(built.folder, (0,))
    truth = reference(EMBEDDED)
    bench = Bench(backend)
    asked: list[ImageRequest] = [
        ask(
            prompt=f"a {colour} circle on a blue background",
            width=64,
            height=64,
            num_inference_steps=4 + i,
            guidance_scale=(1.0, 2.0)[i % 2],
            seed=i,
        )
        for i, colour in enumerate(("red", "green", "yellow"))
    ]
    for request in asked:
        bench.submit(request)
        bench.engine.step()
    bench.run()
    for request in asked:
        latents, pixels = stock(truth, request)
        assert far(bench.latents[request.request_id], latents) <= 1e-4
        assert_same_picture(bench.picture(request), pixels, request)
