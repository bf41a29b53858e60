"""LoRA adapters: one safetensors file each, read by diffusers and peft whatever their dialect.

Fused at compile time for accelerators whose graphs hold the weights; replicas of the others load
adapters with the same code (``deployments.lora``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compile.hub import ATTEMPTS, HubError, ask
from compile.manifest import LoraRecord, sha256
from compile.snapshot import Snapshot, SnapshotError, local_folder

SUFFIX = ".safetensors"
# Pickles: reading one runs what its author wrote.
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


class LoraError(ValueError):
    """An adapter that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Which adapter.

    Attributes:
        source: a local folder or a Hub repository.
        revision: commit or tag; required for a repository, refused for a folder.
        weight_name: its safetensors file; ``None`` for a folder that holds only one.
        scale: factor of its effect.
    """

    source: str
    revision: str | None = None
    weight_name: str | None = None
    scale: float = 1.0


def find(lora: Lora, attempts: int = ATTEMPTS) -> Path:
    """The adapter's one file, downloaded if it is on the Hub.

    Args:
        lora: which.
        attempts: how often the Hub is asked at most.

    Raises:
        LoraError: there is none, there are several, or there is none but pickles.
    """
    try:
        folder = local_folder(lora.source)
    except SnapshotError:
        raise LoraError(f"no folder at {lora.source!r}") from None
    if folder is not None:
        if lora.revision is not None:
            raise LoraError(f"revision: got {lora.revision!r}; {lora.source!r} is a folder")
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        return folder / _choose(lora, names)
    if lora.revision is None:
        raise LoraError(f"revision: missing for the hub repository {lora.source!r}; pin a commit")
    name = lora.weight_name
    if name is None or not name.endswith(SUFFIX):
        raise LoraError(
            f"weight_name is {name!r}; the name of a {SUFFIX} file in {lora.source!r} is needed"
        )
    from huggingface_hub import HfApi

    api, what = HfApi(), f"fetching {name} of {lora.source}"
    try:
        return Path(
            ask(
                what,
                lambda: api.hf_hub_download(lora.source, name, revision=lora.revision),
                attempts,
            )
        )
    except (OSError, HubError) as error:
        raise LoraError(f"{lora.source!r} does not load: {error}") from error


def record(lora: Lora) -> LoraRecord:
    """What makes the adapter this one and no other: its file's contents and its scale.

    Raises:
        LoraError: see ``find``.
    """
    return LoraRecord(sha256=sha256(find(lora)), scale=lora.scale)


def load(pipe: Any, path: Path, name: str) -> None:
    """Load an adapter's file into a pipeline that is still on the CPU.

    Raises:
        LoraError: it does not go with the model.
    """
    from safetensors import SafetensorError

    try:
        with ExitStack() as stack:
            for encoder in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
                if encoder is not None:
                    stack.enter_context(_injected_by_peft(encoder))
            pipe.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=name,
                use_safetensors=True,
                local_files_only=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise LoraError(f"{path.name} does not go with the model: {first}") from error
    if not any(name in names for names in pipe.get_list_adapters().values()):
        raise LoraError(f"{path.name} holds no layer of this model's UNet or text encoders")


def fuse(pipe: Any, path: Path, name: str, scale: float) -> None:
    """Add an adapter's product to a pipeline's weights.

    Raises:
        LoraError: see ``load``.
    """
    load(pipe, path, name)
    pipe.fuse_lora(lora_scale=scale, adapter_names=[name])
    pipe.unload_lora_weights()


@contextmanager
def fused(snapshot: Snapshot, lora: Lora) -> Iterator[Snapshot]:
    """The model with the adapter in its weights, in a folder of its own while the block lasts.

    Raises:
        LoraError: the adapter cannot be had or does not go with the model.
    """
    from diffusers import DiffusionPipeline

    path = find(lora)
    absent = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    pipe = DiffusionPipeline.from_pretrained(
        str(snapshot.folder), use_safetensors=True, local_files_only=True, vae=None, **absent
    )
    fuse(pipe, path, "lora", lora.scale)
    with tempfile.TemporaryDirectory(prefix="fused-") as made:
        changed = {"unet", "text_encoder", "text_encoder_2"}
        for entry in snapshot.folder.iterdir():
            if entry.name not in changed:
                (Path(made) / entry.name).symlink_to(entry.resolve())
        for part in sorted(changed):
            module = getattr(pipe, part, None)
            if module is not None:
                module.save_pretrained(Path(made) / part, safe_serialization=True)
        yield replace(snapshot, folder=Path(made))


def _choose(lora: Lora, names: list[str]) -> str:
    found = [one for one in names if one.endswith(SUFFIX)]
    where = repr(lora.source)
    if lora.weight_name is not None:
        if lora.weight_name not in found:
            there = ", ".join(found) or "none"
            raise LoraError(f"{where} holds no {lora.weight_name!r}; {SUFFIX} there: {there}")
        return lora.weight_name
    if len(found) == 1:
        return found[0]
    if found:
        raise LoraError(f"{where} holds several: set weight_name to one of {', '.join(found)}")
    pickled = [one for one in names if one.endswith(_PICKLED)]
    if pickled:
        raise LoraError(
            f"{where} holds {pickled[0]!r} and no safetensors: pickled weights are never read;"
            " convert them"
        )
    raise LoraError(f"{where} holds no {SUFFIX} file")


@contextmanager
def _injected_by_peft(encoder: Any) -> Iterator[None]:
    """While diffusers loads: peft itself puts an adapter into a text encoder.

    transformers' own way asks for a version of peft that is not released (5.24 for 0.22).
    """

    def load_adapter(
        adapter_name: str, adapter_state_dict: dict[str, Any], peft_config: Any, **_: Any
    ) -> None:
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        inject_adapter_in_model(peft_config, encoder, adapter_name)
        loaded: Any = set_peft_model_state_dict(encoder, adapter_state_dict, adapter_name)
        if loaded.unexpected_keys:
            raise ValueError(f"unknown layers: {', '.join(sorted(loaded.unexpected_keys)[:3])}")
        known = getattr(encoder, "peft_config", {})
        encoder.peft_config = {**known, adapter_name: peft_config}

    encoder.load_adapter = load_adapter
    try:
        yield
    finally:
        del encoder.load_adapter
