"""A model folder of exactly one revision, and a name for what it holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import models
from compile.hub import HubError, ask
from compile.manifest import ModelRecord, sha256

EMBEDDED = "embedded"
# Parts of a diffusers pipeline that no graph is made of.
_UNUSED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
# Copies of the weights in another precision or of another stage of training.
_VARIANTS = ("*.fp16*", "*.bf16*", "*.non_ema*", "*.ema*")


class SnapshotError(ValueError):
    """The model cannot be had; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model on disk in diffusers layout."""

    folder: Path
    model: ModelRecord


def take(source: str, revision: str | None) -> Snapshot:
    """The model's files of one revision; fetches from the Hub only what is compiled.

    Args:
        source: ``embedded``, a folder, or a Hub id.
        revision: commit, tag or branch of a Hub id; resolved to a commit first.

    Raises:
        SnapshotError: no such model, or a file is missing.
    """
    folder = local_folder(source)
    if folder is None:
        if revision is None:
            raise SnapshotError(f"--revision: missing for the hub model {source!r}; pin a commit")
        return _fetch(source, revision)
    if revision is not None:
        raise SnapshotError(f"--revision: got {revision!r}; {source!r} is a folder and has none")
    if not (folder / "model_index.json").is_file():
        raise SnapshotError(f"--model: {source!r} holds no model_index.json (diffusers layout)")
    return Snapshot(folder, ModelRecord(source=source, revision=content_digest(folder)))


def local_folder(source: str) -> Path | None:
    """The folder of an embedded or local model; ``None`` when ``source`` is a Hub id."""
    if source == EMBEDDED:
        return Path(models.__file__).parent / "embedded"
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source.startswith((".", "/", "~")):
        raise SnapshotError(f"--model: no folder at {source!r}")
    return None


def content_digest(folder: Path) -> str:
    """``sha256:…`` over every configuration and every weight of a model folder, whole files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".txt"):
            digest.update(f"{path.relative_to(folder).as_posix()}:{sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def components(folder: Path) -> dict[str, str]:
    """Class name of each part that the pipeline has and that is compiled or needed to compile."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return {
        name: str(value[1])
        for name, value in index.items()
        if isinstance(value, list) and value[1] is not None and name not in _UNUSED
    }


def _fetch(source: str, revision: str) -> Snapshot:
    from huggingface_hub import HfApi

    api, what = HfApi(), f"fetching {source}"
    try:
        commit = str(ask(what, lambda: api.repo_info(source, revision=revision)).sha)
        index = ask(what, lambda: api.hf_hub_download(source, "model_index.json", revision=commit))
        wanted = [
            f"{part}/{kind}"
            for part in components(Path(index).parent)
            for kind in ("*.json", "*.txt", "*.safetensors")
        ]
        folder = ask(
            what,
            lambda: api.snapshot_download(
                source,
                revision=commit,
                allow_patterns=["model_index.json", *wanted],
                ignore_patterns=list(_VARIANTS),
            ),
        )
    except HubError as error:
        raise SnapshotError(f"--model: {error}") from error
    return Snapshot(Path(folder), ModelRecord(source=source, revision=commit))
