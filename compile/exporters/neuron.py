"""Neuron: optimum-neuron's exporter, every argument spelt out, its own cache off.

optimum-neuron 0.4.5 drops arguments that it does not know without a word, and its cache's key
leaves out revision, adapters and VAE: hence both.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.exporters.base import (
    CannotRunHereError,
    Component,
    ExportedGraph,
    ExportError,
    ExportRequest,
    Fact,
    Progress,
    Tensors,
)
from compile.neuron.arguments import check_arguments, complete_options, export_arguments
from compile.neuron.graphs import COMPONENTS, load_graphs, present, read_json, wrap
from compile.neuron.specs import describe_graph
from compile.neuron.surroundings import (
    LOWERINGS,
    attention_restored,
    neutral_folder,
    observed_traces,
    set_environment,
)

if TYPE_CHECKING:
    import torch

# What was compiled with which flags, beside the graphs.
RECORD = "neuron.json"
_SUPPORTED = {"StableDiffusionPipeline", "StableDiffusionXLPipeline"}


def create() -> NeuronExporter:
    """The exporter for AWS Neuron."""
    return NeuronExporter()


class NeuronExporter:
    """See ``Exporter``. UNet at ``batches[0]`` rows, everything else at one.

    Runs on a machine without a Neuron device too, but needs AWS' packages.
    """

    def options(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """See ``Exporter``."""
        return complete_options(given)

    def environment(self) -> Mapping[str, Fact]:
        """See ``Exporter``. A graph runs with its own or a later compiler's runtime libraries."""
        return {
            "neuronx-cc": Fact(_installed("neuronx-cc"), "at_least"),
            "torch-neuronx": Fact(_installed("torch-neuronx")),
            "torch": Fact(_installed("torch")),
            "optimum-neuron": Fact(_installed("optimum-neuron"), "recorded"),
            "diffusers": Fact(_installed("diffusers"), "recorded"),
            "transformers": Fact(_installed("transformers"), "recorded"),
            **{name: Fact(value, "recorded") for name, value in LOWERINGS.items()},
        }

    def export(
        self, snapshot: Path, target: Path, request: ExportRequest, progress: Progress
    ) -> Sequence[ExportedGraph]:
        """See ``Exporter``."""
        tokens = _check(snapshot, request)
        with set_environment(request.options["instance_type"]), neutral_folder() as scratch:
            source = scratch / "model"
            source.symlink_to(snapshot.resolve())
            main_export = _import_exporter()
            arguments = export_arguments(source, target, scratch / "work", tokens, request)
            check_arguments(arguments, main_export)
            total = len(_expected(snapshot))
            with observed_traces(progress, total) as flags, attention_restored():
                main_export(**arguments)
        record = {"compiler_flags": flags, "environment": LOWERINGS}
        (target / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return [describe_graph(target, name, request) for name in present(target)]

    def run(
        self, snapshot: Path, target: Path, graph: ExportedGraph, inputs: Tensors
    ) -> Mapping[str, torch.Tensor]:
        """See ``Exporter``."""
        if not _has_device():
            raise CannotRunHereError("no Neuron device on this machine")
        name = graph.component
        part = wrap(target, load_graphs(target, [name], cores=1)[name], name)
        if name == "unet":
            added = {key: inputs[key] for key in ("text_embeds", "time_ids") if key in inputs}
            prediction = part(
                inputs["sample"],
                inputs["timestep"],
                inputs["encoder_hidden_states"],
                added_cond_kwargs=added or None,
                return_dict=False,
            )[0]
            return {"prediction": prediction}
        if name == "vae_decoder":
            return {"pixels": part(inputs["latents"], return_dict=False)[0]}
        if name == "vae_encoder":
            return {"moments": part(inputs["pixels"]).latent_dist.parameters}
        out = part(inputs["input_ids"])
        if "hidden_states" not in out:
            return {"hidden": out.last_hidden_state}
        found = {"hidden": out.hidden_states[-2]}
        if name == "text_encoder_2":
            found["pooled"] = out.text_embeds
        return found


def _check(snapshot: Path, request: ExportRequest) -> int:
    """Refuse what optimum-neuron would get wrong; the model's length of text."""
    if len(request.batches) != 1:
        raise ExportError(f"--batch: got {request.batches}; Neuron takes one size")
    if request.vae_batch != 1:
        raise ExportError(f"VAE batch: got {request.vae_batch}; Neuron decodes one at a time")
    if request.dtype != "float32":
        raise ExportError(
            f"--dtype: got {request.dtype}; with it optimum-neuron gives the UNet its timesteps in"
            f" {request.dtype}, which cannot tell 981 from 980. Use float32 and the option"
            " auto_cast"
        )
    name = read_json(snapshot, "model_index.json").get("_class_name")
    if name not in _SUPPORTED:
        allowed = ", ".join(sorted(_SUPPORTED))
        raise ExportError(f"model_index.json: _class_name is {name!r}; for Neuron: {allowed}")
    unet = read_json(snapshot, "unet/config.json")
    if unet.get("time_cond_proj_dim") is not None:
        raise ExportError(
            "unet/config.json: time_cond_proj_dim: optimum-neuron's UNet takes no guidance"
            " embedding, so that this model would ignore the guidance scale"
        )
    if unet["in_channels"] != read_json(snapshot, "vae/config.json")["latent_channels"]:
        raise ExportError("unet/config.json: in_channels: in-painting models are not supported")
    tokens: int = read_json(snapshot, "text_encoder/config.json")["max_position_embeddings"]
    return tokens


def _import_exporter() -> Any:
    try:
        importlib.import_module("torch_neuronx")
        module = importlib.import_module("optimum.exporters.neuron")
    except ImportError as error:
        raise ExportError(
            f"Neuron's packages are not usable here ({error}). They come from AWS' own index;"
            " PyPI's packages of these names are placeholders (constraints-neuron.txt)"
        ) from error
    return module.main_export


def _expected(snapshot: Path) -> list[Component]:
    index = read_json(snapshot, "model_index.json")
    return [name for name in COMPONENTS if name != "text_encoder_2" or name in index]


def _has_device() -> bool:
    from optimum.neuron.utils.system import get_neuron_major

    return bool(get_neuron_major() != -1)


def _installed(name: str) -> str:
    """A package's release, without the build's label: ``2.8.0+cpu`` loads what ``2.8.0`` made."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "(absent)"
