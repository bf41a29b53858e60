"""Load shapes by name, bodies, and recorded traces."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from loadtest.bodies import bodies
from loadtest.shapes import ShapeOptions, arrivals, due_times
from loadtest.trace import read_trace, write_trace


@pytest.mark.parametrize(
    ("shape", "from_s", "to_s", "expected"),
    [
        ("constant", 0, 1000, 10_000),
        ("poisson", 0, 1000, 10_000),
        # A day from a tenth to the top: the mean of both.
        ("cosine", 0, 1000, 5_500),
        ("cosine", 400, 600, 1_942),
        ("burst", 0, 400, 4_000),
        ("burst", 400, 600, 10_000),
        ("burst", 600, 1000, 4_000),
    ],
)
def test_shapes_have_their_rates(shape: str, from_s: float, to_s: float, expected: int) -> None:
    options = ShapeOptions(rate=10.0, duration_s=1000.0)
    times = due_times(arrivals(shape, options), 1000.0, seed=1)
    assert times == due_times(arrivals(shape, options), 1000.0, seed=1)
    assert list(times) == sorted(times)
    inside = sum(from_s <= at < to_s for at in times)
    assert inside == pytest.approx(expected, abs=5 * expected**0.5)


@pytest.mark.parametrize(
    ("shape", "changes", "words"),
    [
        ("square", {}, ["square", "constant, poisson, cosine, burst, replay"]),
        ("poisson", {"rate": 0.0}, ["rate 0"]),
        ("constant", {"duration_s": float("inf")}, ["duration inf"]),
        ("cosine", {"low": 11.0}, ["low", "11", "rate 10"]),
        ("burst", {"factor": 0.0}, ["factor", "0"]),
    ],
)
def test_bad_shapes_are_refused(shape: str, changes: dict[str, float], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"allowed|above 0") as caught:
        arrivals(shape, ShapeOptions(**({"rate": 10.0, "duration_s": 60.0} | changes)))
    assert all(word in str(caught.value) for word in words)


def test_bodies_have_a_prompt_their_own_seeds_and_the_pin() -> None:
    first, second = islice(bodies({"num_inference_steps": 3}, "a", seed=2**32 - 1), 2)
    assert (first["seed"], second["seed"]) == (2**32 - 1, 0)
    assert first["pool"] == second["pool"] == "a"
    assert first["num_inference_steps"] == 3
    assert next(bodies({"prompt": "x", "seed": 5}))["seed"] == 5


def test_prompts_are_unlike_and_the_same_seed_gives_the_same_ones() -> None:
    """A replica remembers the latest prompts, so that equal ones would cost it nothing."""
    prompts = [[body["prompt"] for body in islice(bodies(seed=7), 300)] for _ in range(2)]
    assert prompts[0] == prompts[1]
    assert len(set(prompts[0])) == 300
    assert [body["prompt"] for body in islice(bodies({"prompt": "x"}), 2)] == ["x", "x"]


def test_a_trace_survives_writing_and_reading(tmp_path: Path) -> None:
    requests = [(0.5, {"prompt": 'ä, "b"', "seed": 1}), (0.25, {"prompt": "c"})]
    write_trace(tmp_path / "trace.jsonl", requests)
    assert read_trace(tmp_path / "trace.jsonl") == sorted(requests, key=lambda one: one[0])


def test_a_csv_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text('at_s,body\n1.5,"{""prompt"": ""a, b""}"\n0,"{}"\n', encoding="utf-8")
    assert read_trace(path) == [(0.0, {}), (1.5, {"prompt": "a, b"})]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", "", ["no requests"]),
        ("a.jsonl", '{"at_s": 1, "body": {}}\n{"at_s": -1, "body": {}}', ["line 2", "at_s", "-1"]),
        ("a.jsonl", '{"at_s": NaN, "body": {}}', ["line 1", "at_s"]),
        ("a.jsonl", '{"at_s": true, "body": {}}', ["line 1", "at_s"]),
        ("a.jsonl", '{"at_s": 1, "body": []}', ["line 1", "body"]),
        ("a.jsonl", '{"at_s": 1}', ["line 1", "expected"]),
        ("a.jsonl", "nonsense", ["line 1", "no JSON"]),
        ("a.csv", "time,body\n", ["time", "at_s,body"]),
        ("a.csv", "at_s,body\nsoon,{}\n", ["line 2", "soon"]),
        ("a.csv", "at_s,body\n1,\n", ["line 2", "no JSON"]),
    ],
)
def test_bad_traces_name_the_line(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=name) as caught:
        read_trace(path)
    assert all(word in str(caught.value) for word in words)
