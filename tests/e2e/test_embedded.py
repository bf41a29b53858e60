"""The shipped configuration with its own model: pictures show what was asked for."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from models import captions, checker
from models.scenes import COLOURS, KINDS, Kind, Picture, draw_scene
from tests.e2e.conftest import Service, assert_same_picture, free_port, serving, shipped_config

pytestmark = pytest.mark.e2e

PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """``serve run`` of the shipped configuration, on another port."""
    path = tmp_path_factory.mktemp("embedded") / "config.yaml"
    port = free_port()
    path.write_text(yaml.safe_dump(shipped_config(port)), encoding="utf-8")
    with serving(path, port) as running:
        yield running


def picture(answer: httpx.Response) -> Picture:
    """The answer's pixels, uint8 [64, 64, 3]."""
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def draw(service: Service, prompt: str = PROMPT, **fields: Any) -> Picture:
    """What the service draws, seed 7 unless said otherwise."""
    return picture(service.post(prompt=prompt, **{"seed": 7, **fields}))


def apart(one: Picture, other: Picture) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def from_colour(pixels: Any, colour: str) -> float:
    """RGB distance of the median of some pixels to a colour."""
    seen = np.median(pixels.reshape(-1, 3), axis=0)
    return float(np.linalg.norm(seen - np.array(COLOURS[colour])))


def corners(made: Picture) -> Any:
    return np.stack([made[:8, :8], made[:8, -8:], made[-8:, :8], made[-8:, -8:]])


def test_a_red_circle_on_a_blue_background(embedded: Service) -> None:
    answer = embedded.post(prompt=PROMPT, seed=7)
    made = picture(answer)
    assert made.shape == (64, 64, 3)
    assert from_colour(made[24:40, 24:40], "red") < 30
    assert from_colour(corners(made), "blue") < 30
    assert "X-Unknown-Words" not in answer.headers
    recipe = json.loads(Image.open(io.BytesIO(answer.content)).info["imagine"])
    # Its own defaults, not diffusers' 50 steps and 7.5.
    assert (recipe["num_inference_steps"], recipe["guidance_scale"]) == (8, 2.0)


def test_it_is_stock_diffusers_picture(embedded: Service) -> None:
    import torch

    from models.evaluate import EMBEDDED, load_pipeline

    stock = load_pipeline(EMBEDDED)(
        PROMPT,
        num_inference_steps=8,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    out = io.BytesIO()
    stock.save(out, "PNG")
    assert_same_picture(embedded.post(prompt=PROMPT, seed=7).content, out.getvalue())


@pytest.mark.parametrize("kind", KINDS)
def test_a_checker_finds_what_the_prompts_say(embedded: Service, kind: Kind) -> None:
    rng = random.Random(f"e2e {kind}")
    right = []
    for seed in range(12):
        scene = draw_scene(rng, kind)
        made = draw(embedded, captions.caption(rng, scene), seed=seed)
        right.append(checker.check(made, scene).everything)
    # Measured over 1,000 prompts: at least 95 % of each kind; 9 of 12 by bad luck is 1 in 500.
    assert sum(right) >= 10, right


def test_words_it_does_not_know_are_named_and_passed_over(embedded: Service) -> None:
    answer = embedded.post(prompt="a wondrous red circle on a blue background", seed=7)
    assert answer.headers["X-Unknown-Words"] == "wondrous"
    assert from_colour(corners(picture(answer)), "blue") < 30
    assert from_colour(picture(answer)[24:40, 24:40], "red") < 30


def test_the_seed_decides_the_picture(embedded: Service) -> None:
    first, again, other = (draw(embedded, seed=seed) for seed in (1, 1, 2))
    assert apart(first, again) < 0.01
    assert apart(first, other) > 0.2


def test_guidance_draws_the_prompt_out(embedded: Service) -> None:
    """The farther guidance is raised, the farther the picture is from the unguided one."""
    unguided = draw(embedded, guidance_scale=1)
    distances = [apart(unguided, draw(embedded, guidance_scale=g)) for g in (1.5, 3, 6)]
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[0] > 0


def test_a_negative_prompt_steers_away(embedded: Service) -> None:
    """Where the prompt leaves the colour open, it is not the one that the negative prompt names."""
    for seed in range(4):
        plain = draw(embedded, "a circle on a blue background", seed=seed)
        colour = checker.colour_name(np.median(plain[26:38, 26:38].reshape(-1, 3), axis=0))
        assert from_colour(plain[26:38, 26:38], colour) < 90
        away = draw(
            embedded,
            "a circle on a blue background",
            seed=seed,
            negative_prompt=f"a {colour} circle on a blue background",
        )
        nearer = from_colour(plain[26:38, 26:38], colour)
        assert from_colour(away[26:38, 26:38], colour) > nearer + 40
        assert from_colour(corners(away), "blue") < 30


def test_strength_leads_from_the_start_picture_to_the_prompt(embedded: Service) -> None:
    start = embedded.post(prompt=PROMPT, seed=7)
    image = base64.b64encode(start.content).decode()
    prompt = "a yellow star on a black background"
    made = [
        draw(embedded, prompt, image=image, strength=s, num_inference_steps=10)
        for s in (0.1, 0.2, 0.4, 1.0)
    ]
    distances = [apart(picture(start), one) for one in made]
    assert distances == sorted(distances)
    assert distances[0] < 0.4 * distances[-1]
    assert from_colour(corners(made[0]), "blue") < 30
    assert from_colour(corners(made[-1]), "black") < 30
    assert from_colour(made[-1][28:36, 28:36], "yellow") < 40
