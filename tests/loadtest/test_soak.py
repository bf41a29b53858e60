"""The soak's own judgement: flat or not, and the report, also of a run that ended early."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from loadtest.soak import mix
from loadtest.soak.processes import Size, ray_objects, sizes
from loadtest.soak.record import WINDOWS, Record, Sample
from loadtest.soak.report import write

LOOKS = 4 * WINDOWS


def flat() -> Record:
    """An hour in which nothing grows and nothing slows."""
    record = Record()
    for look in range(LOOKS):
        record.statuses["200"] += 100
        size = Size(resident=200 + look % 2, unique=100, files=40 + look % 3, threads=20)
        record.samples.append(Sample(75.0 * look, record.requests, {"ingress": size}, look % 5))
    record.latencies = [(float(at), 0.1 + 0.01 * (at % 7)) for at in range(3600)]
    return record


def spoilt(what: str) -> Record:
    """The same, but one thing grows by a quarter."""
    record = flat()
    for index, sample in enumerate(record.samples):
        size, objects = sample.processes["ingress"], sample.objects
        grown = {"resident": size.resident, "files": size.files, "threads": size.threads}
        if what in grown:
            grown[what] += index  # type: ignore[operator]
        if what == "objects":
            objects = 10 * index
        processes = {"ingress": Size(unique=size.unique, **grown)}  # type: ignore[arg-type]
        record.samples[index] = Sample(sample.at, sample.requests, processes, objects)
    if what == "p50":
        record.latencies = [(at, took * (1 + 2 * at / 3600)) for at, took in record.latencies]
    if what == "p95":  # every tenth
        record.latencies = [
            (at, took * (1 + 20 * (at / 3600) ** 2 * (at % 10 == 0)))
            for at, took in record.latencies
        ]
    if what == "instead of":
        record.unexpected.append("500 instead of 200")
    return record


def test_flat_is_flat() -> None:
    assert flat().problems() == []


@pytest.mark.parametrize(
    "what", ["resident", "files", "threads", "objects", "p50", "p95", "instead of"]
)
def test_what_grows_is_named(what: str) -> None:
    (problem,) = spoilt(what).problems()
    assert what in problem


def test_more_traffic_excuses_no_growth() -> None:
    """24 MB are a leak, of a hundred kB or of one kB a request."""
    record = spoilt("resident")
    record.samples = [replace(one, requests=100 * one.requests) for one in record.samples]
    (problem,) = record.problems()
    assert "resident grew by 24 in 240000 requests (allowed: 20)" in problem


def test_too_little_traffic_is_no_proof() -> None:
    record = flat()
    record.samples = [replace(one, requests=one.requests // 10) for one in record.samples]
    (problem,) = record.problems()
    assert "only 240 requests" in problem


def test_a_process_that_comes_late_has_grown_by_all_it_is() -> None:
    record = flat()
    for sample in record.samples[LOOKS // 2 :]:
        sample.processes["stray"] = Size(resident=5000, unique=1, files=9000, threads=1)  # type: ignore[index]
    problems = record.problems()
    assert any("stray: resident grew by 5000" in problem for problem in problems)
    assert any("stray: files grew by 9000" in problem for problem in problems)


def test_what_could_not_be_looked_at_is_not_flat() -> None:
    record = flat()
    record.samples = [replace(sample, objects=None) for sample in record.samples]
    assert record.problems() == ["Ray did not tell how many objects it holds"]


def test_a_stretch_without_pictures_is_named() -> None:
    record = flat()
    record.latencies = [(at, took) for at, took in record.latencies if not 1200 < at <= 1900]
    (problem,) = record.problems()
    assert "stretches no picture came" in problem


def test_windows_hold_every_picture_once() -> None:
    windows = flat().windows()
    assert len(windows) == WINDOWS
    assert sum(one["pictures"] for one in windows) == 3600
    assert all(0.1 <= one["p50_s"] <= one["p95_s"] <= 0.17 for one in windows)


def test_a_short_run_says_so_and_has_a_report(tmp_path: Path) -> None:
    record = flat()
    record.samples = record.samples[:3]
    (problem,) = record.problems()
    assert "too short" in problem
    data, drawn = write(record, tmp_path / "out")
    told = json.loads(data.read_text("utf-8"))
    assert (told["requests"], len(told["samples"])) == (100 * LOOKS, 3)
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_before_the_first_look_there_is_nothing_to_draw(tmp_path: Path) -> None:
    assert [path.name for path in write(Record(), tmp_path)] == ["soak.json"]


def test_own_process_is_measured() -> None:
    (size,) = sizes([psutil.Process(os.getpid())]).values()
    assert size.resident >= size.unique > 10
    assert size.files > 2
    assert size.threads >= 1
    with pytest.raises(LookupError):
        ray_objects([psutil.Process(os.getpid())])


def test_the_mix_has_every_kind() -> None:
    kinds = [mix.kind(index, mix.picture()) for index in range(60)]
    expected = {one.expected for one in kinds}
    assert expected == {200, 400, None}
    assert sum(one.plain for one in kinds) > 15
    assert not any(one.plain for one in kinds if one.expected != 200)
