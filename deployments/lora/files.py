"""Where an adapter's weights lie: one safetensors file in a folder or in a Hub repository."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from deployments.model_info import ModelError, local_folder
from deployments.options import LoraOptions

SUFFIX = ".safetensors"
# Pickles: reading one runs what its author wrote.
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def weights_file(lora: LoraOptions) -> Path:
    """The adapter's one file, downloaded if it is on the Hub.

    Raises:
        ModelError: there is none, there are several, or there is none but pickles.
    """
    folder = local_folder(lora.source)
    if folder is not None:
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        return folder / _choose(lora, names)
    if lora.weight_name is None or not lora.weight_name.endswith(SUFFIX):
        raise ModelError(
            f"loras.{lora.name}: weight_name is {lora.weight_name!r}; the name of a {SUFFIX} file"
            f" in {lora.source!r} is needed"
        )
    try:
        return Path(hf_hub_download(lora.source, lora.weight_name, revision=lora.revision))
    except (OSError, HfHubHTTPError) as error:
        raise ModelError(f"loras.{lora.name}: {lora.source!r} does not load: {error}") from error


def _choose(lora: LoraOptions, names: list[str]) -> str:
    where = f"loras.{lora.name}: {lora.source!r}"
    found = [one for one in names if one.endswith(SUFFIX)]
    if lora.weight_name is not None:
        if lora.weight_name not in found:
            there = ", ".join(found) or "none"
            raise ModelError(f"{where} holds no {lora.weight_name!r}; {SUFFIX} there: {there}")
        return lora.weight_name
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{where} holds several: set weight_name to one of {', '.join(found)}")
    pickled = [one for one in names if one.endswith(_PICKLED)]
    if pickled:
        raise ModelError(
            f"{where} holds {pickled[0]!r} and no safetensors: pickled weights are never read;"
            " convert them"
        )
    raise ModelError(f"{where} holds no {SUFFIX} file")
