"""The small parts: pictures that carry their recipe, the choice of rows, trajectories."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from deployments.backends import available_frameworks, create_backend
from deployments.backends.cpu import fastest_threads, usable_cores
from deployments.engine.batch import combine
from deployments.engine.calibration import ROUNDS, choose_rows, measure_step_costs
from deployments.engine.job import Job
from deployments.engine.preparation import PROMPT_CACHE_ENTRIES, Preparation
from deployments.engine.trajectory import make_scheduler
from deployments.messages import MEDIA_TYPES, ImageResult, OutputFormat
from deployments.options import ReplicaOptions
from deployments.picture import encode_picture, recipe
from tests.deployments.conftest import MakeBackend
from tests.deployments.harness import Bench, FakeBackend, ask, solo
from tests.deployments.test_model import ModelFolder

PIXELS = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_the_asked_quality_tells(output_format: OutputFormat) -> None:
    poor, usual, rich = (
        len(encode_picture(PIXELS, ask(output_format=output_format, quality=q), "m", "r"))
        for q in (1, None, 100)
    )
    assert poor < usual < rich


@pytest.mark.parametrize("strength", [None, 0.6])
def test_png_is_lossless_and_carries_its_recipe(strength: float | None) -> None:
    request = ask(prompt="ein Häuschen 🏠\nzwei", negative_prompt="böse", strength=strength)
    data = encode_picture(PIXELS, request, "model", "rev")
    image: Any = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(image), PIXELS)
    fields = json.loads(image.text["imagine"])
    assert fields == recipe(request, "model", "rev")
    assert ("strength" in fields) == (strength is not None)
    model = (fields.pop("model"), fields.pop("model_revision"))
    assert model == ("model", "rev")
    assert ask(**fields, request_id=request.request_id) == request
    assert image.text["parameters"].startswith("ein Häuschen 🏠\nzwei\nNegative prompt: böse\n")


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_other_formats(name: OutputFormat) -> None:
    flat = np.full((16, 24, 3), 90, np.uint8)
    image = Image.open(io.BytesIO(encode_picture(flat, ask(output_format=name), "m", "r")))
    assert image.get_format_mimetype() == MEDIA_TYPES[name]
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 90).max() <= 3


@pytest.mark.parametrize(
    ("costs", "rows"),
    [
        ({1: 10, 2: 10, 4: 10, 8: 10}, 8),  # free company
        ({1: 10, 2: 12, 4: 16, 8: 31.5}, 8),  # still falling
        ({1: 10, 2: 12, 4: 16, 8: 31.9}, 4),  # hardly any more
        ({1: 10, 2: 12, 4: 16, 8: 38, 16: 70}, 4),  # less than before, but more than the best
        ({1: 10, 2: 20, 4: 40, 8: 80}, 2),  # no gain at all: room for one guided request
        ({1: 10, 2: 25}, 2),
        ({16: 50}, 16),  # a fixed batch
        ({2: 5}, 2),
        ({1: 10, 2: 12, 4: 24, 8: 30}, 8),  # one bad doubling, then a good one
    ],
)
def test_choose_rows(costs: dict[int, float], rows: int) -> None:
    assert choose_rows(costs) == rows


def test_measured_costs_stop_where_long_steps_stop_paying(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {1: 1.0, 2: 1.2, 4: 1.6, 8: 3.2, 16: 3.3}
    scale = [1.0]
    monkeypatch.setattr(
        "deployments.engine.calibration.time_rows", lambda *args: scale[0] * costs[args[-1]]
    )
    assert list(measure_step_costs(FakeBackend(), 16, 16, 16)) == [1, 2, 4, 8, 16]
    scale[0] = 300.0
    assert list(measure_step_costs(FakeBackend(), 16, 16, 16)) == [1, 2, 4, 8]
    assert list(measure_step_costs(FakeBackend(fixed_rows=16), 16, 16, 16)) == [16]


def test_a_busy_spell_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def cost(*args: Any) -> float:
        rows: int = args[-1]
        calls.append(rows)
        return rows + 10.0 + (50.0 if rows == 8 and calls.count(8) < ROUNDS else 0.0)

    monkeypatch.setattr("deployments.engine.calibration.time_rows", cost)
    costs = measure_step_costs(FakeBackend(), 16, 16, 8)
    assert costs == {1: 11.0, 2: 12.0, 4: 14.0, 8: 18.0}
    assert choose_rows(costs) == 8


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "lcm"])
def test_calibration_runs_every_kind(kind: Any, make_backend: MakeBackend) -> None:
    costs = measure_step_costs(make_backend(kind), 16, 16, 4)
    assert list(costs) == [1, 2, 4]
    assert all(cost > 0 for cost in costs.values())


def test_a_picture_that_is_not_finite_is_none_and_its_neighbour_is_not(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend("sd1")
    latents = torch.zeros(2, backend.facts.latent_channels, 8, 8)
    latents[0] = float("nan")
    bad, good = backend.decode(latents)
    assert bad is None
    assert good is not None
    assert np.array_equal(good, backend.decode(latents[1:])[0])


def test_guidance() -> None:
    rows = torch.tensor([[1.0], [2.0]])
    assert combine(rows, 3.0).item() == 4.0
    assert combine(rows[:1], 3.0).item() == 1.0


def test_unsupported_own_scheduler_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"DDPMScheduler.*ddim"):
        make_scheduler("default", DDPMScheduler())
    assert make_scheduler("ddim", DDPMScheduler()).config.clip_sample is False


def test_strength_that_leaves_no_step_is_refused(make_backend: MakeBackend) -> None:
    bench = Bench(make_backend("sd1"))
    with pytest.raises(ValueError, match="strength"):
        bench.submit(
            ask(init_rgb=bytes(16 * 16 * 3), strength=0.1, num_inference_steps=5, scheduler="ddim")
        )


def test_prompt_cache_is_bounded() -> None:
    backend = FakeBackend()
    preparation = Preparation(backend)
    for i in range(PROMPT_CACHE_ENTRIES + 5):
        preparation._encode(f"p{i}")
    assert len(preparation._cache) == PROMPT_CACHE_ENTRIES
    preparation._encode("p0")
    assert backend.encoded.count("p0") == 2


def test_frameworks() -> None:
    assert available_frameworks() == {"cpu", "cuda", "neuron", "emulated"}
    unknown = ReplicaOptions.model_construct(framework="tpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="framework: got 'tpu'; this build has cpu"):
        create_backend(unknown)


@pytest.mark.parametrize(
    ("costs", "chosen", "tried"),
    [
        ({4: 20.0, 2: 10.0, 1: 15.0}, 2, [4, 2, 1]),
        ({4: 20.0, 2: 30.0, 1: 40.0}, 4, [4, 2, 1]),
        ({4: 900.0, 2: 1.0, 1: 1.0}, 4, [4]),  # a long step is not tried again and again
    ],
)
def test_the_fastest_number_of_threads_is_chosen(
    costs: dict[int, float], chosen: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def cost(*_: Any) -> float:
        seen.append(torch.get_num_threads())
        return costs[seen[-1]]

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr("deployments.backends.cpu.time_rows", cost)
    backend: Any = FakeBackend()
    before = torch.get_num_threads()
    try:
        assert fastest_threads(backend, 16, 16) == chosen
    finally:
        torch.set_num_threads(before)
    assert seen == tried


def test_a_replica_starts_without_a_word_on_stderr(model_folder: ModelFolder) -> None:
    code = f"""
from deployments.options import ReplicaOptions
from deployments.backends import create_backend
create_backend(ReplicaOptions(pool="p", accelerator="a", framework="cpu",
                              model_source={str(model_folder("sd1"))!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("deterministic", [False, True])
async def test_replica_paints_describes_and_stops(
    deterministic: bool, model_folder: ModelFolder
) -> None:
    from deployments.replica import PoolReplica

    replica = PoolReplica(
        ReplicaOptions(
            pool="cpu",
            accelerator="cpu",
            framework="cpu",
            model_source=str(model_folder("sdxl")),
            max_rows=4,
            threads=1,
            deterministic=deterministic,
        )
    )
    try:
        request = ask(seed=5)
        answer = await replica.generate(request)
        assert isinstance(answer, ImageResult)
        image = Image.open(io.BytesIO(answer.image))
        pixels = np.asarray(image)
        assert pixels.tobytes() == solo(replica.service.engine.backend, request)[1]
        times = answer.timings
        assert min(times.queue, times.encode, times.denoise, times.decode) >= 0
        parts = times.queue + times.encode + times.denoise + times.decode
        assert parts == pytest.approx(times.total, abs=1.0)
        recorded = replica.record_autoscaling_stats()
        assert recorded["work_done_per_s"] == recorded["work_arrived_per_s"] > 0
        assert recorded["p95_s"] == pytest.approx(times.total / 1000)
        assert recorded["occupancy"] == 0
        assert recorded[f"step_ms_{max(replica.step_costs)}"] > 0
        assert all(isinstance(value, float) for value in recorded.values())
        facts = await replica.describe()
        assert facts["open"] == 0
        assert facts["dtype"] == "float32"
        assert facts["max_rows"] == 4 if deterministic else facts["max_rows"] >= 2
        replica.check_health()
    finally:
        replica.service.stop()
    with pytest.raises(RuntimeError):
        replica.check_health()


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("", 4)],
)
def test_a_containers_quota_bounds_the_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    file = tmp_path / "cpu.max"
    if quota:
        file.write_text(f"{quota}\n", encoding="ascii")
    assert usable_cores(file) == cores


def test_an_embedding_that_is_not_finite_is_not_kept() -> None:
    backend = FakeBackend()
    preparation = Preparation(backend)
    for _ in range(2):
        preparation.prepare(Job(ask(prompt="nan"), lambda answer: None))
        preparation.prepare(Job(ask(prompt="fine"), lambda answer: None))
    assert backend.encoded.count("nan") == 2
    assert backend.encoded.count("fine") == 1
