"""Where an adapter's weights lie: one safetensors file in a folder or in a Hub repository."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
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
    name = lora.name
    folder = local_folder(lora.source)
    try:
        if folder is not None:
            names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
            return folder / _choose(lora, names)
        names = sorted(HfApi().list_repo_files(lora.source, revision=lora.revision))
        return Path(hf_hub_download(lora.source, _choose(lora, names), revision=lora.revision))
    except (OSError, HfHubHTTPError) as error:
        raise ModelError(f"loras.{name}: {lora.source!r} does not load: {error}") from error


def _choose(lora: LoraOptions, names: list[str]) -> str:
    where = f"loras.{lora.name}: {lora.source!r}"
    found = [one for one in names if one.endswith(SUFFIX)]
    if lora.weight_name is not None:
        if lora.weight_name not in found:
            raise ModelError(f"{where} holds no {lora.weight_name!r}; there: {', '.join(found)}")
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
