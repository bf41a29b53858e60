"""The GPU benchmark runs, on a CPU and a tiny model; what it would measure has the right shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from benchmarks import gpu_start
from benchmarks.gpu import open_device, parse_arguments, parse_case
from benchmarks.gpu_cases import Limits, Run
from benchmarks.gpu_models import SHAPES
from benchmarks.gpu_report import goals, render
from compile import arguments
from deployments.model_info import load_model_info

ROOT = Path(__file__).resolve().parents[2]


def test_it_runs_from_the_command_line_and_keeps_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text('{"earlier-512": {"compiled": {"images_per_s": 1.0}}}')
    # A start with an artifact is in tests/compile, where there is one: compiling takes a minute.
    options = ["--device", "cpu", "--tiny", "--no-restart", "--no-artifact", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert list(results) == ["earlier-512", "tiny-16"]
    case = results["tiny-16"]
    assert [name for name, found in case.items() if "error" in found] == []
    rates = [case[name]["images_per_s"] for name in ("eager", "compiled", "engine 1", "engine 2")]
    assert min(rates) > 0
    assert case["start"]["rows"] == [2, 4]
    assert {"equal_images_per_s", "mixed_images_per_s"} < case["static"].keys()
    assert {f"{who}_p{q}" for who in ("static", "engine") for q in (50, 95)} < case["load"].keys()
    assert case["share 2"]["unet_ms"] > 0
    assert case["share 2"]["share"] < 1
    assert "no GPU" in case["conditions"]
    document = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert document == render(results) == done.stdout
    assert "| engine 2 |" in document
    assert "engine ÷ static" in document


def test_what_is_compiled_for_it_is_the_case(tmp_path: Path) -> None:
    case = parse_case("tiny-16")
    gpu_start.save(case, torch.float32, tmp_path)
    info = load_model_info(str(tmp_path), None)
    assert (info.defaults.width, info.defaults.height) == (16, 16)
    command = gpu_start.compile_command(case, "cpu", "float32", 2, tmp_path, tmp_path / "registry")
    parsed = arguments.parse_arguments(command)
    assert (parsed.accelerator, parsed.batch, parsed.height) == ("cpu", (4,), 16)
    with pytest.raises(RuntimeError, match="--height: got 15"):
        gpu_start.run([*command, "--height", "15"], time.monotonic() + 60)


GOOD = {
    "compiled": {"images_per_s": 1.0},
    "engine 1": {"images_per_s": 9.0},
    "engine 8": {"images_per_s": 3.5},
    "engine 16": {"error": "does not fit the memory"},
    "load": {"engine_p95": 2.0, "static_p95": 5.0, "slots": 8},
    "share 8": {"share": 0.04},
}


def test_goals_are_told_as_met_or_missed() -> None:
    assert goals("sd15-512", GOOD) == [
        "- **met**: engine 8 ÷ compiled 3.50, ≥ 3",
        "- **met**: p95, engine ÷ static 0.40, ≤ 0.5",
        "- **met**: share at 8 slots 0.040, ≤ 0.05",
    ]
    bad = GOOD | {
        "engine 8": {"images_per_s": 2.9},
        "load": {"engine_p95": 3.0, "static_p95": 5.0, "slots": 8},
        "share 8": {"share": 0.06},
    }
    assert [line.split("**")[1] for line in goals("sd15-512", bad)] == ["missed"] * 3
    assert len(goals("sdxl-1024", GOOD)) == 2  # the first is for 512 pixels
    assert goals("sd15-512", {}) == []


def make_run(monkeypatch: pytest.MonkeyPatch, until: float) -> Run:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--tiny"])
    return Run(
        case=parse_case("tiny-16"),
        slots=(1, 2),
        device=open_device(parse_arguments()),
        limits=Limits(until, 0.1, 0.2),
        keep=lambda: None,
        say=lambda text: None,
    )


def test_nothing_is_begun_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(monkeypatch, time.monotonic() - 1)
    run.all()
    assert run.results == {name: {"error": "no time left"} for name in ("eager", "start")}


def test_a_measurement_that_fails_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(monkeypatch, time.monotonic() + 60)

    def explode(name: str, device: object, dtype: object) -> None:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr("benchmarks.gpu_cases.build", explode)
    run.all()
    assert run.results["eager"] == {"error": "OutOfMemoryError: too large"}
    assert "| eager | OutOfMemoryError: too large |" in render({"tiny-16": run.results})


@pytest.mark.parametrize(
    ("name", "unet", "vae"),
    [
        # Parameters of the published models.
        ("sd15", 859_520_964, 83_653_863),
        ("sd21", 865_910_724, 83_653_863),
        ("sdxl", 2_567_463_684, 83_653_863),
    ],
)
def test_the_models_have_the_published_shapes(name: str, unet: int, vae: int) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        networks = UNet2DConditionModel(**shape.unet), AutoencoderKL(**shape.vae)
    assert [sum(p.numel() for p in one.parameters()) for one in networks] == [unet, vae]


def test_the_committed_table_is_what_was_measured() -> None:
    store = ROOT / "benchmarks" / "gpu.json"
    results = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    document = (ROOT / "benchmarks" / "gpu.md").read_text(encoding="utf-8")
    assert document == render(results)
    assert ("Not yet run" in document) == (not results)
