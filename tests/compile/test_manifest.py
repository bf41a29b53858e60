"""The manifest refuses what does not belong to it; the fingerprint changes with every cause."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compile.exporters.base import Fact
from compile.manifest import (
    ArtifactError,
    LoraRecord,
    Manifest,
    MismatchError,
    ModelRecord,
    Wanted,
    check,
    check_files,
    fingerprint,
    parse,
)
from compile.prune import superseded
from tests.compile.builds import ENVIRONMENT, MODEL, REQUEST, make_build, make_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_manifest(tmp_path)


LORA = LoraRecord(sha256="a" * 64, scale=1.0)
WANTED = Wanted(
    model=MODEL,
    accelerator="cpu",
    height=64,
    width=64,
    dtype="float32",
    environment=ENVIRONMENT,
)


def test_what_fits_is_not_refused(manifest: Manifest) -> None:
    check(manifest, WANTED)
    check(manifest, replace(WANTED, dtype=None, height=None, width=None))


def wanting(**changes: Any) -> Wanted:
    return replace(WANTED, **changes)


def here(**facts: str) -> Wanted:
    """A machine that differs in these facts."""
    return wanting(environment={**ENVIRONMENT, **{k: Fact(v) for k, v in facts.items()}})


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        (
            wanting(model=ModelRecord(source="someone/model", revision="d" * 40)),
            f"model.revision: made from {'c' * 40}, here {'d' * 40}",
        ),
        (
            wanting(model=ModelRecord(source="else/model", revision="c" * 40)),
            "model.source: made from someone/model, here else/model",
        ),
        (wanting(accelerator="cuda"), "accelerator: made for cpu, here cuda"),
        (wanting(height=128), "height: made for 64, here 128"),
        (wanting(width=128), "width: made for 64, here 128"),
        (wanting(dtype="bfloat16"), "dtype: made for float32, here bfloat16"),
        (wanting(lora=LORA), "lora: made with none, here aaaaaaaaaaaa at scale 1"),
        (here(torch="2.14.0"), "torch: made with 2.13.0, here 2.14.0"),
        (here(gpu="NVIDIA L4"), "gpu: made with NVIDIA H100, here NVIDIA L4"),
        (here(driver="535.1"), "driver: made with 550.54.15 or later, here 535.1"),
    ],
)
def test_each_field_that_differs_is_named(manifest: Manifest, wanted: Wanted, line: str) -> None:
    with pytest.raises(MismatchError, match="does not fit") as caught:
        check(manifest, wanted)
    assert str(caught.value) == f"artifact {manifest.tag} does not fit: {line}"


def test_all_fields_that_differ_are_named_at_once(manifest: Manifest) -> None:
    with pytest.raises(MismatchError, match=r"height: .*; width: "):
        check(manifest, wanting(height=8, width=8))


def test_a_folder_is_the_same_model_wherever_it_lies(tmp_path: Path) -> None:
    digest = f"sha256:{'1' * 64}"
    built = make_manifest(tmp_path, model=ModelRecord(source="./model", revision=digest))
    check(built, wanting(model=ModelRecord(source="/srv/model", revision=digest)))
    with pytest.raises(MismatchError, match=r"model\.revision: "):
        check(built, wanting(model=ModelRecord(source="./model", revision=f"sha256:{'2' * 64}")))


def test_the_fingerprint_changes_with_every_cause() -> None:
    prints = [
        fingerprint(MODEL, REQUEST, ENVIRONMENT),
        fingerprint(ModelRecord(source=MODEL.source, revision="d" * 40), REQUEST, ENVIRONMENT),
        fingerprint(ModelRecord(source="else/model", revision="c" * 40), REQUEST, ENVIRONMENT),
        *(
            fingerprint(MODEL, replace(REQUEST, **{name: value}), ENVIRONMENT)
            for name, value in {
                "accelerator": "cuda",
                "height": 128,
                "width": 128,
                "batches": (2,),
                "vae_batch": 2,
                "dtype": "bfloat16",
                "options": {"max_autotune": "true"},
            }.items()
        ),
        *(fingerprint(MODEL, REQUEST, {**ENVIRONMENT, name: Fact("else")}) for name in ENVIRONMENT),
        fingerprint(MODEL, REQUEST, ENVIRONMENT, LORA),
        fingerprint(MODEL, REQUEST, ENVIRONMENT, LORA.model_copy(update={"scale": 0.5})),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(MODEL, replace(REQUEST), dict(ENVIRONMENT)) == prints[0]


def test_it_survives_a_round_trip(manifest: Manifest) -> None:
    assert parse(manifest.dump(), "here") == manifest


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda m: m.pop("height"), "height: Field required"),
        (lambda m: m.update(format=2), "format: Input should be 1"),
        (lambda m: m.update(extra=1), "extra: Extra inputs"),
        (
            lambda m: m["files"].append({"path": "../x", "size": 1, "sha256": "0" * 64}),
            "files.0.path: Value error, a path inside",
        ),
        (
            lambda m: m["files"].append({"path": "/x", "size": 1, "sha256": "0" * 64}),
            "files.0.path: Value error, a path inside",
        ),
        (lambda m: m["environment"]["torch"].update(rule="maybe"), "environment.torch.rule: "),
        # Made to fit by hand.
        (lambda m: m["environment"]["torch"].update(value="2.14.0"), "fingerprint: is not that of"),
        (lambda m: m["environment"]["gpu"].update(rule="recorded"), "fingerprint: is not that of"),
        (lambda m: m["model"].update(revision="d" * 40), "fingerprint: is not that of"),
        (lambda m: m.update(height=128), "fingerprint: is not that of"),
        (lambda m: m.update(options={"level": "9"}), "fingerprint: is not that of"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_field(
    manifest: Manifest, change: Any, line: str
) -> None:
    raw = json.loads(manifest.dump())
    change(raw)
    with pytest.raises(ArtifactError) as caught:
        parse(json.dumps(raw), "the tag")
    assert str(caught.value).startswith(f"the tag: manifest.json: {line}")


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json: .*Invalid JSON"):
        parse("half a fi", "the tag")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda path: path.unlink(), "unet-2.pt2: missing"),
        (lambda path: path.write_bytes(b"x"), "unet-2.pt2: 1 bytes, 50000 expected"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
            "unet-2.pt2: contents changed since it was published",
        ),
    ],
)
def test_a_file_that_is_not_as_built_is_named(spoil: Any, line: str, tmp_path: Path) -> None:
    manifest = make_build(tmp_path / "build")
    check_files(tmp_path / "build", manifest)
    spoil(tmp_path / "build" / "unet-2.pt2")
    with pytest.raises(ArtifactError, match=line):
        check_files(tmp_path / "build", manifest)


def test_the_newest_of_each_kind_stay(manifest: Manifest) -> None:
    def made(day: int, **changes: Any) -> Manifest:
        return manifest.model_copy(update={"created": f"2026-01-{day:02}", **changes})

    other_gpu = {**ENVIRONMENT, "gpu": Fact("NVIDIA L4")}
    manifests = {
        "old": made(1),
        "new": made(2),
        "newest": made(3, environment={**ENVIRONMENT, "torch": Fact("2.14")}),
        "another size": made(1, height=128),
        "another gpu": made(1, environment=other_gpu),
        "an adapter in it": made(1, lora=LORA),
    }
    assert superseded(manifests, keep=1) == ["new", "old"]
    assert superseded(manifests, keep=2) == ["old"]
    with pytest.raises(ValueError, match="--keep: got 0"):
        superseded(manifests, keep=0)
