"""The safety checker at the replica: what it flags is refused, the rest is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor

from deployments.messages import ImageFailure, ImageResult
from deployments.model_info import ModelError
from deployments.options import ReplicaOptions
from deployments.replica import PoolReplica
from deployments.safety import load_checker
from tests.deployments.harness import ask
from tests.deployments.tiny_models import Kind

SIZE = 32


def build_checker(folder: Path, *, threshold: float, inside_a_model: bool) -> Path:
    """A checker of random weights whose every concept fires above a similarity of ``threshold``."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 8,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    parts = ("safety_checker", "feature_extractor") if inside_a_model else (".", ".")
    checker.save_pretrained(str(folder / parts[0]))
    processor.save_pretrained(str(folder / parts[1]))
    return folder


def replica_with(model: Path, checker: Path | None) -> PoolReplica:
    return PoolReplica(
        ReplicaOptions(
            pool="cpu",
            accelerator="cpu",
            framework="cpu",
            model_source=str(model),
            max_rows=2,
            threads=1,
            safety_source=None if checker is None else str(checker),
        )
    )


async def test_what_is_flagged_is_refused_and_the_rest_is_as_it_was(
    model_folder: Callable[[Kind], Path], tmp_path: Path
) -> None:
    model = model_folder("sd1")
    lenient = build_checker(tmp_path / "lenient", threshold=1.5, inside_a_model=True)
    pictures = []
    for checker in (None, lenient):
        replica = replica_with(model, checker)
        try:
            answer = await replica.generate(ask(seed=5))
        finally:
            replica.service.stop()
        assert isinstance(answer, ImageResult)
        pictures.append(answer.image)
    assert pictures[0] == pictures[1]


async def test_a_flagged_picture_is_a_clear_refusal(
    model_folder: Callable[[Kind], Path],
    tmp_path: Path,
) -> None:
    # The warm-up picture is flagged too, which must not keep the replica from starting.
    strict = build_checker(tmp_path / "strict", threshold=-1.5, inside_a_model=False)
    replica = replica_with(model_folder("sd1"), strict)
    try:
        answer = await replica.generate(ask(seed=5))
        assert isinstance(answer, ImageFailure)
        assert answer.code == "content_policy_violation"
        assert not answer.retryable
        assert "safety checker" in answer.message
        replica.check_health()
    finally:
        replica.service.stop()


def test_it_decides_as_diffusers_own_pipeline_does(tmp_path: Path) -> None:
    """A threshold between two pictures' similarities tells them apart, here and there."""
    chance = np.random.default_rng(3)
    pictures = [chance.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(8)]
    pictures += [np.full((48, 64, 3), level, np.uint8) for level in (0, 60, 120, 255)]
    folder = build_checker(tmp_path / "any", threshold=0.0, inside_a_model=True)
    ours = load_checker(str(folder), None)
    assert ours is not None
    checker: Any = StableDiffusionSafetyChecker.from_pretrained(str(folder / "safety_checker"))
    processor = CLIPImageProcessor.from_pretrained(str(folder / "feature_extractor"))

    def similarity(picture: Any) -> float:
        clip = processor([Image.fromarray(picture)], return_tensors="pt").pixel_values
        with torch.inference_mode():
            embedding = checker.visual_projection(checker.vision_model(clip)[1])
            alike = torch.nn.functional.cosine_similarity(embedding, checker.concept_embeds)
        return max(alike.tolist())

    threshold = float(np.median([similarity(picture) for picture in pictures]))
    for one in (ours._checker, checker):
        one.concept_embeds_weights.data.fill_(threshold)
    found = [ours.passes(picture) for picture in pictures]
    flagged = checker(
        images=[picture.copy() for picture in pictures],
        clip_input=processor(
            [Image.fromarray(picture) for picture in pictures], return_tensors="pt"
        ).pixel_values,
    )[1]
    assert found == [not flag for flag in flagged]
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize("missing", ["safety_checker/model.safetensors", "feature_extractor"])
def test_a_checker_that_does_not_load_stops_the_replica(missing: str, tmp_path: Path) -> None:
    folder = build_checker(tmp_path / "broken", threshold=0, inside_a_model=True)
    path = folder / missing
    for file in [path] if path.is_file() else path.iterdir():
        file.unlink()
    with pytest.raises(ModelError, match=r"safety\.source"):
        load_checker(str(folder), None)
    with pytest.raises(ModelError, match="no folder at"):
        load_checker("./nowhere", None)


def test_none_is_asked_for_by_default() -> None:
    assert load_checker(None, None) is None
