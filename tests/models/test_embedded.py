"""The model folder: stock layout, its defaults, and that prompts steer the picture, measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import captions, checker, evaluate, serving
from models.checkpoint import TrainingError
from models.scenes import COLOURS, Picture
from tests.models.conftest import Painter

FOLDER = evaluate.EMBEDDED


def _distance(picture: Picture, colour: str, middle: bool) -> float:
    """RGB distance of the median of the middle 12 × 12 pixels, or of the corners, to a colour."""
    inner = picture[26:38, 26:38].reshape(-1, 3)
    corners = np.concatenate([picture[:6, :6].reshape(-1, 3), picture[-6:, -6:].reshape(-1, 3)])
    seen = np.median(inner if middle else corners, axis=0)
    return float(np.linalg.norm(seen - np.array(COLOURS[colour])))


def test_the_folder_is_stock_small_and_readable_by_all() -> None:
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    for part in ("scheduler", "text_encoder", "tokenizer", "unet", "vae"):
        assert (FOLDER / part).is_dir()
        assert index[part][1]
    files = [f for f in FOLDER.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 40 << 20
    assert all(f.stat().st_mode & 0o444 == 0o444 for f in files)
    assert not [f for f in files if f.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    config = json.loads((FOLDER / "text_encoder" / "config.json").read_text())
    assert config["dtype"] == "float32"


def test_its_defaults_and_vocabulary_lie_beside_it() -> None:
    defaults = serving.read_defaults(FOLDER)
    assert (defaults.width, defaults.height) == (64, 64)
    assert defaults.num_inference_steps == 8
    assert defaults.guidance_scale == 2.0
    assert list(defaults.vocabulary) == captions.words()


def test_defaults_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"serving\.json is missing"):
        serving.read_defaults(tmp_path)
    (tmp_path / "serving.json").write_text('{"width": 1, "colour": 2}')
    with pytest.raises(TrainingError, match="does not hold serving defaults"):
        serving.read_defaults(tmp_path)


def test_a_red_circle_on_a_blue_background_is_red_in_the_middle_on_blue(painter: Painter) -> None:
    picture = painter("a red circle on a blue background")
    assert _distance(picture, "red", middle=True) < 60
    assert _distance(picture, "blue", middle=False) < 60


def test_words_steer_colours(painter: Painter) -> None:
    for middle, back in (("yellow", "black"), ("green", "white"), ("blue", "pink")):
        picture = painter(f"a {middle} square on a {back} background")
        assert _distance(picture, middle, middle=True) < 70
        assert checker.colour_name(checker.background_of(picture)) == back


def test_the_same_seed_repeats_and_another_does_not(painter: Painter) -> None:
    first, again = (painter("a green heart on a white background", seed=5) for _ in range(2))
    other = painter("a green heart on a white background", seed=6)
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other.astype(int)).mean() > 0.1


def test_guidance_and_negative_prompt_change_the_picture(painter: Painter) -> None:
    plain = painter("a red circle on a blue background", guidance_scale=1.0)
    guided = painter("a red circle on a blue background", guidance_scale=3.0)
    assert np.abs(plain.astype(int) - guided.astype(int)).mean() > 0.5
    # Steered away from blue, an open prompt's corners end farther from blue than steered to it.
    away = painter("a red circle", negative_prompt="a red circle on a blue background")
    to = painter("a red circle on a blue background", negative_prompt="a red circle")
    assert _distance(away, "blue", middle=False) > _distance(to, "blue", middle=False) + 60


def test_an_unknown_word_does_no_great_harm(painter: Painter) -> None:
    picture = painter("a wondrous red circle on a blue background")
    assert _distance(picture, "blue", middle=False) < 70


def test_strength_of_img2img_moves_the_picture_towards_the_prompt(painter: Painter) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    img2img = StableDiffusionImg2ImgPipeline.from_pretrained(str(FOLDER), safety_checker=None)
    img2img.set_progress_bar_config(disable=True)
    start = Image.fromarray(painter("a red circle on a blue background"))
    moved = []
    for strength in (0.2, 0.95):
        made = img2img(
            "a white square on a black background",
            image=start,
            strength=strength,
            num_inference_steps=10,
            guidance_scale=2.0,
            generator=torch.Generator().manual_seed(2),
            output_type="np",
        ).images[0]
        picture = (np.asarray(made) * 255).round().astype(np.uint8)
        moved.append(_distance(picture, "black", middle=False))
    assert moved[1] < moved[0] - 60
