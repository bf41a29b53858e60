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
DIFFUSERS_LCM_STEPS = 4
# LCM picks its steps out of these (original_inference_steps) and refuses to take more.
LCM_STEPS = 50
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
        lcm_by_default: the model's own scheduler is LCM's.
        lcm_max_steps: most steps that the LCM scheduler takes with this model.
    """

    name: str
    revision: str
    size_multiple: int
    defaults: ModelDefaults
    vocabulary: frozenset[str] | None
    lcm_by_default: bool = False
    lcm_max_steps: int = LCM_STEPS


def load_model_info(source: str, revision: str | None) -> ModelInfo:
    """Describe a model from its JSON files; fetches only those for a Hub id.

    Raises:
        ModelError: a file or a field is missing or unusable.
    """
    folder = local_folder(source)
    if folder is None:
        if revision is None:
            raise ModelError(f"model.revision: missing for the hub model {source!r}; pin a commit")
        try:
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=["*.json"]))
            # The hub's cache names the folder after the commit, whatever tag or branch was asked.
            revision = folder.name
        except (OSError, ValueError) as error:
            raise ModelError(f"model.source: {source!r} does not download: {error}") from error
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
    factor = _halvings(folder, "vae")
    size = _size(_read(folder / "unet" / "config.json").get("sample_size"), factor)
    serving = _read(folder / "serving.json") if (folder / "serving.json").is_file() else {}
    scheduler = _read(folder / "scheduler" / "scheduler_config.json")
    lcm = scheduler.get("_class_name") == "LCMScheduler"
    steps = DIFFUSERS_LCM_STEPS if lcm else DIFFUSERS_STEPS
    return ModelInfo(
        name=name,
        revision=revision,
        # Latents that the UNet cannot halve evenly are resized inside it, as diffusers does.
        size_multiple=factor,
        defaults=ModelDefaults(
            width=_whole(serving, "width", size, factor),
            height=_whole(serving, "height", size, factor),
            num_inference_steps=_whole(serving, "num_inference_steps", steps, 1),
            guidance_scale=_number(serving, "guidance_scale", DIFFUSERS_GUIDANCE),
        ),
        vocabulary=_vocabulary(serving),
        lcm_by_default=lcm,
        lcm_max_steps=_lcm_steps(scheduler),
    )


def content_hash(folder: Path) -> str:
    """A short name for what a folder holds: file names, sizes and first bytes."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(HASHED_BYTES_PER_FILE))
    return "sha256:" + digest.hexdigest()[:16]


def _halvings(folder: Path, part: str) -> int:
    """By how much a network shrinks its input: two to the number of its down-samplings."""
    blocks = _read(folder / part / "config.json").get("block_out_channels")
    if not isinstance(blocks, list) or not blocks:
        raise ModelError(f"{part}/config.json: block_out_channels is {blocks!r}; a list needed")
    return int(2 ** (len(blocks) - 1))


def _whole(serving: dict[str, Any], key: str, default: int, multiple: int) -> int:
    value = serving.get(key, default)
    if type(value) is not int or value <= 0 or value % multiple:
        raise ModelError(
            f"serving.json: {key} is {value!r}; a positive whole multiple of {multiple} needed"
        )
    return value


def _lcm_steps(scheduler: dict[str, Any]) -> int:
    steps = scheduler.get("original_inference_steps", LCM_STEPS)
    if type(steps) is not int or steps < 1:
        raise ModelError(
            f"scheduler/scheduler_config.json: original_inference_steps is {steps!r}; "
            "a positive whole number needed"
        )
    return steps


def _number(serving: dict[str, Any], key: str, default: float) -> float:
    value = serving.get(key, default)
    if type(value) not in (int, float):
        raise ModelError(f"serving.json: {key} is {value!r}; a number needed")
    return float(value)


def _vocabulary(serving: dict[str, Any]) -> frozenset[str] | None:
    words = serving.get("vocabulary")
    if not words:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ModelError("serving.json: vocabulary: a list of words needed")
    return frozenset(map(str.lower, words))


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
