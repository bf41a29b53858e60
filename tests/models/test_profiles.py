"""The model under both pinned profiles: this environment's, and the Neuron image's older one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# transformers and diffusers of constraints-neuron.txt, laid over this environment by `make slow`.
OLDER = Path(sys.prefix) / "older"

CODE = """
import asyncio, hashlib, sys
import diffusers, torch, transformers
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from deployments.backends import create_backend
from deployments.engine.job import Job
from deployments.messages import ImageRequest
from deployments.options import ReplicaOptions
from tests.deployments.harness import solo

torch.set_num_threads(1)
numbers = {"num_inference_steps": 8, "guidance_scale": 2.0}
pipe = StableDiffusionPipeline.from_pretrained("models/embedded", safety_checker=None)
first = pipe("a red circle on a blue background", width=64, height=64, **numbers,
             generator=torch.Generator().manual_seed(7)).images[0]
img2img = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
second = img2img("a green square", image=first, strength=0.6, **numbers,
                 generator=torch.Generator().manual_seed(7)).images[0]
backend = create_backend(ReplicaOptions(pool="p", accelerator="a", framework="cpu",
                                        model_source="embedded", threads=1))
ours = solo(backend, ImageRequest(request_id="r", prompt="a red circle on a blue background",
                                  negative_prompt="", width=64, height=64, seed=7, **numbers))[1]
assert ours == first.tobytes(), "engine and stock pipeline differ"
print(transformers.__version__, diffusers.__version__)
print(*(hashlib.sha256(picture.tobytes()).hexdigest() for picture in (first, second)))
"""


def draw(*first_on_path: Path) -> tuple[str, str]:
    """(versions, digests of a text-to-image and an image-to-image picture)."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*first_on_path, ROOT]))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    versions, digests = done.stdout.strip().splitlines()
    return versions, digests


@pytest.mark.slow
def test_both_profiles_draw_the_same_pictures() -> None:
    assert OLDER.is_dir(), f"{OLDER} is missing: run `make slow`"
    newer_versions, newer = draw()
    older_versions, older = draw(OLDER)
    assert newer_versions.startswith("5.")
    assert older_versions == "4.57.6 0.35.2"
    assert older == newer
