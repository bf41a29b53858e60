"""The data: pictures, captions, vocabulary, and what is kept from training."""

import random

import numpy as np
import pytest

from models import captions, scenes, tokenizer


def test_a_picture_is_the_same_for_the_same_scene() -> None:
    scene = scenes.draw_scene(random.Random(3), "relation")
    first, second = scenes.render(scene), scenes.render(scene)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_training_never_shows_a_held_out_combination(kind: scenes.Kind) -> None:
    rng = random.Random(4)
    held = [scenes.is_held_out(scenes.draw_scene(rng, kind)) for _ in range(600)]
    assert 0.01 < np.mean(held) < 0.35
    drawn = [scenes.draw_training_scene(rng) for _ in range(600)]
    assert not any(scenes.is_held_out(scene) for scene in drawn)
    pairs = {(t.shape, t.colour) for scene in drawn for t in scene.things}
    assert not pairs & scenes.HELD_OUT_PAIRS


def test_things_stay_inside_and_apart() -> None:
    rng = random.Random(5)
    for _ in range(400):
        for thing in scenes.draw_scene(rng, rng.choice(scenes.KINDS[:3])).things:
            assert thing.x - thing.radius >= 0
            assert thing.x + thing.radius <= scenes.SIZE
            assert thing.y - thing.radius >= 0
            assert thing.y + thing.radius <= scenes.SIZE


def test_colours_can_be_told_apart() -> None:
    inks = np.array(list(scenes.COLOURS.values()), float)
    distance = np.linalg.norm(inks[:, None] - inks[None], axis=2)
    assert distance[distance > 0].min() > 95


@pytest.mark.parametrize("write", [captions.caption, captions.held_out_caption])
def test_every_caption_is_made_of_known_words(write: object) -> None:
    known, rng = set(captions.words()), random.Random(6)
    for _ in range(2000):
        text = write(rng, scenes.draw_training_scene(rng))  # type: ignore[operator]
        assert set(text.split()) <= known, text
        assert text == text.lower()
        assert len(text.split()) <= tokenizer.LENGTH - 2


def test_held_out_phrasings_are_not_trained() -> None:
    rng = random.Random(7)
    trained = [captions.caption(rng, scenes.draw_training_scene(rng)) for _ in range(4000)]
    for text in trained:
        assert not text.startswith(("on a ", "against a ", "the background is"))


def test_captions_vary() -> None:
    rng = random.Random(8)
    scene = scenes.Scene("single", (scenes.Thing("circle", "red", 32, 32, 17),), "blue")
    assert len({captions.caption(rng, scene) for _ in range(500)}) > 200
    assert captions.article("orange box") == "an orange box"


def test_each_known_word_is_one_token_and_a_strange_one_survives(tmp_path) -> None:
    words = captions.words()
    tokenizer.write(tmp_path, words)
    reader = tokenizer.load(tmp_path)
    assert all(len(reader(word).input_ids) == 3 for word in words)
    text = "a zyxomatic red circle"
    assert reader.decode(reader(text).input_ids, skip_special_tokens=True).strip() == text
    ids = tokenizer.encode(reader, ["", "A Red CIRCLE", "a " * 60])
    assert ids.shape == (3, tokenizer.LENGTH)
    assert ids[1].tolist() == tokenizer.encode(reader, ["a red circle"])[0].tolist()


def test_merges_of_later_words_leave_earlier_ones_whole() -> None:
    words = ["in", "ring", "string", "rings", "inning"]
    ranks = {pair: k for k, pair in enumerate(tokenizer.merges_for(words))}
    for word in words:
        assert tokenizer._apply([*word[:-1], word[-1] + "</w>"], ranks) == [word + "</w>"]
