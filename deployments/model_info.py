"""What the front door must know about a model, read from its JSON files alone (no torch)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

EMBEDDED = "embedded"
# Numbers a model without a serving.json of ours starts from: diffusers' own defaults.
DIFFUSERS_STEPS = 50
DIFFUSERS_GUIDANCE = 7.5
HASHED_BYTES_PER_FILE = 65_536


class ModelError(ValueError):
    """The model cannot be served; the message says which file or field and what to do."""


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What a request that does not say gets. Width and height in pixels."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as the front door sees it.

    Attributes:
        name: what clients see, e.g. ``embedded`` or the Hub id.
        revision: commit, tag, or a content hash for a local folder.
        size_multiple: width and height must be multiples of this many pixels.
        defaults: sizes, steps and guidance that suit the model.
        vocabulary: every word a closed-vocabulary model knows, or ``None`` for an open one.
    """

    name: str
    revision: str
    size_multiple: int
    defaults: ModelDefaults
    vocabulary: frozenset[str] | None


def load_model_info(source: str, revision: str | None) -> ModelInfo:
    """Describe a model from its JSON files; fetches only those for a Hub id.

    Raises:
        ModelError: a file or a field is missing or unusable.
    """
    folder = local_folder(source)
    if folder is None:
        if revision is None:
            raise ModelError(f"model.revision: missing for the hub model {source!r}; pin a commit")
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=["*.json"]))
    else:
        revision = content_hash(folder)
    return describe(folder, source, revision or "")


def local_folder(source: str) -> Path | None:
    """The folder of an embedded or local model; ``None`` when ``source`` is a Hub id."""
    if source == EMBEDDED:
        return Path(__file__).resolve().parent.parent / "models" / "embedded"
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source.startswith((".", "/", "~")):
        raise ModelError(f"model.source: no folder at {source!r}")
    return None


def describe(folder: Path, name: str, revision: str) -> ModelInfo:
    """Read ``serving.json`` where there is one, and the component configs for the rest."""
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"model.source: {name!r} holds no model_index.json (diffusers layout)")
    vae = _read(folder / "vae" / "config.json")
    unet = _read(folder / "unet" / "config.json")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    # Each UNet down-sampling halves the latent; odd sizes would not come back the same.
    unet_factor = 2 ** (len(unet["block_out_channels"]) - 1)
    size = _size(unet.get("sample_size"), factor)
    serving = _read(folder / "serving.json") if (folder / "serving.json").is_file() else {}
    vocabulary = serving.get("vocabulary")
    return ModelInfo(
        name=name,
        revision=revision,
        size_multiple=factor * unet_factor,
        defaults=ModelDefaults(
            width=int(serving.get("width", size)),
            height=int(serving.get("height", size)),
            num_inference_steps=int(serving.get("num_inference_steps", DIFFUSERS_STEPS)),
            guidance_scale=float(serving.get("guidance_scale", DIFFUSERS_GUIDANCE)),
        ),
        vocabulary=None if vocabulary is None else frozenset(map(str.lower, vocabulary)),
    )


def content_hash(folder: Path) -> str:
    """A short name for what a folder holds: file names, sizes and first bytes."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(HASHED_BYTES_PER_FILE))
    return "sha256:" + digest.hexdigest()[:16]


def _size(sample_size: Any, factor: int) -> int:
    if isinstance(sample_size, list):
        sample_size = min(sample_size)
    if not isinstance(sample_size, int):
        raise ModelError(f"unet/config.json: sample_size is {sample_size!r}; a whole number needed")
    return sample_size * factor


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.parent.name}/{path.name}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path.parent.name}/{path.name}: a JSON object needed")
    return data
