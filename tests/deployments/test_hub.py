"""Models from a hub: a hub on loopback, and the real client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.test_model import ModelFolder, change
from tests.hub_server import TOKEN, Hub, add_folder, running_hub

ROOT = Path(__file__).resolve().parents[2]
REPO = "someone/tiny"
# What real repositories hold beside the parts, and nobody here needs: pickles, other frameworks'
# weights, half-precision copies, one-file checkpoints, the safety checker, pictures.
UNNEEDED = (
    "tiny.safetensors",
    "tiny.ckpt",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_flax_model.msgpack",
    "text_encoder/pytorch_model.bin",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "sample.png",
)


@pytest.fixture
def hub(model_folder: ModelFolder, tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    shutil.copytree(model_folder("sd1"), folder)
    for name in UNNEEDED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    parts = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    change(folder / "model_index.json", safety_checker=parts, requires_safety_checker=True)
    with running_hub() as hub:
        add_folder(hub, REPO, folder)
        yield hub


CODE = """
import sys
from deployments.model_info import ModelError, load_model_info
from deployments.model import load_pipeline
try:
    print(load_model_info(sys.argv[1], sys.argv[2]).revision)
    print(type(load_pipeline(sys.argv[1], sys.argv[2]).unet).__name__)
except ModelError as error:
    sys.exit(f"ModelError: {error}")
"""


def load(home: Path, commit: str, repo: str = REPO, **env: str) -> subprocess.CompletedProcess[str]:
    """Load a model in a process of its own: the client reads its variables when imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", CODE, repo, commit],
        cwd=ROOT,
        env=clean | {"HF_HOME": str(home), "HF_TOKEN": TOKEN, "PYTHONPATH": "."} | env,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_only_what_is_needed_is_fetched_and_kept(hub: Hub, tmp_path: Path) -> None:
    home, commit = tmp_path / "home", hub.repos[REPO].branches["main"]
    first = load(home, commit, HF_ENDPOINT=hub.url)
    assert first.stdout.split() == [commit, "UNet2DConditionModel"], first.stderr
    got = hub.fetched()
    assert "unet/diffusion_pytorch_model.safetensors" in got
    # JSON files are small, and all are looked at for the model's description.
    assert set(got) & set(UNNEEDED) <= {"safety_checker/config.json"}
    assert len(got) == len(set(got))
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in first.stdout + first.stderr

    hub.log.clear()
    again = load(home, commit, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout, again.stderr
    assert not hub.log


def test_a_repository_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    done = load(tmp_path / "home", "0" * 40, "someone/else", HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "ModelError: model.source: 'someone/else' does not download" in done.stderr
