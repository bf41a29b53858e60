"""The checker is right on what was drawn, and says so when a picture is wrong."""

import dataclasses
import random

import numpy as np
import pytest

from models import checker, scenes
from models.scenes import Scene, Thing


def _scenes(kind: scenes.Kind, count: int) -> list[Scene]:
    rng = random.Random(11)
    return [scenes.draw_scene(rng, kind) for _ in range(count)]


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_it_is_right_on_ground_truth(kind: scenes.Kind) -> None:
    verdicts = [checker.check(scenes.render(s), s) for s in _scenes(kind, 60)]
    assert all(v.everything for v in verdicts)


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_it_fails_pictures_of_other_scenes(kind: scenes.Kind) -> None:
    asked = _scenes(kind, 40)
    drawn = [*asked[1:], asked[0]]
    passed = [
        checker.check(scenes.render(d), a).everything for a, d in zip(asked, drawn, strict=True)
    ]
    assert np.mean(passed) < 0.08  # two landscapes may be alike by chance


BASE = Scene("single", (Thing("circle", "red", 32, 32, 17),), "blue")
PAIR = Scene(
    "relation",
    (Thing("circle", "red", 18, 32, 11), Thing("square", "green", 46, 32, 11)),
    "white",
    axis="horizontal",
)


def _with(scene: Scene, **changes: object) -> Scene:
    thing = dataclasses.replace(scene.things[0], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(scene, things=(thing, *scene.things[1:]))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (_with(BASE, colour="orange"), "colour"),
        (_with(BASE, shape="diamond"), "shape"),
        (_with(BASE, shape="ring"), "shape"),
        (_with(BASE, x=18), "position"),
        (_with(BASE, radius=8), "size"),
        (dataclasses.replace(BASE, background="black"), "background"),
        (dataclasses.replace(BASE, things=()), "count"),
    ],
)
def test_one_wrong_part_is_named(wrong: Scene, part: str) -> None:
    verdict = checker.check(scenes.render(wrong), BASE)
    assert getattr(verdict, part) is False
    assert not verdict.everything


def test_swapped_things_fail_the_relation() -> None:
    one, two = PAIR.things
    swapped = dataclasses.replace(
        PAIR,
        things=(
            dataclasses.replace(two, x=one.x),
            dataclasses.replace(one, x=two.x),
        ),
    )
    assert checker.check(scenes.render(PAIR), PAIR).everything
    verdict = checker.check(scenes.render(swapped), PAIR)
    assert verdict.relation is False
    assert verdict.colour is False


def test_noise_and_plain_pictures_fail() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    plain = np.full((64, 64, 3), scenes.COLOURS["blue"], np.uint8)
    for picture in (noise, plain):
        assert not checker.check(picture, BASE).everything
        assert not checker.check(picture, PAIR).everything


def test_edge_quality_tells_true_from_wavy() -> None:
    square = _with(BASE, shape="square")
    true = scenes.render(square)
    assert checker.edge_quality(true, square) > 0.97
    # A diamond is as untrue as a square's outline gets.
    assert checker.edge_quality(scenes.render(_with(BASE, shape="diamond")), square) < 0.8
    assert checker.edge_quality(np.zeros((64, 64, 3), np.uint8), square) == 0


def test_components_joins_diagonals_and_parts_islands() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = mask[5, 5] = True
    assert [int(part.sum()) for part in checker.components(mask)] == [3, 1]
