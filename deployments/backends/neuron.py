"""The Neuron backend: optimum-neuron's compiled parts, stepped by the engine.

Every graph has one static shape: the UNet a number of rows, which the engine fills up with idle
ones, text encoders and VAE one. Guidance is two rows, so that optimum-neuron's own way of running
it on two cores is not needed: a replica has one core, or two that share the rows of each step.
Latents and schedulers live on the host; what a step moves is small beside what it computes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch
from optimum.neuron import NeuronStableDiffusionPipeline, NeuronStableDiffusionXLPipeline
from optimum.neuron.utils.instance import current_instance_type
from optimum.neuron.utils.system import get_neuron_major
from packaging.version import Version
from transformers import CLIPTokenizer

from compile.neuron.graphs import (
    CompiledPart,
    NeuronGraphError,
    configs,
    load_graphs,
    present,
    read_json,
    read_part,
)
from deployments.backends.pipeline import PipelineBackend
from deployments.model import Pipeline
from deployments.options import ReplicaOptions

logger = logging.getLogger(__name__)

# Ray tells a process its cores so, and the Neuron runtime goes by it.
VISIBLE_CORES = "NEURON_RT_VISIBLE_CORES"
_CLASSES = {
    "StableDiffusionPipeline": NeuronStableDiffusionPipeline,
    "StableDiffusionXLPipeline": NeuronStableDiffusionXLPipeline,
}


class LocatedArtifact(Protocol):
    """An artifact on this machine, every file and its manifest checked."""

    @property
    def folder(self) -> Path:
        """Holds optimum-neuron's layout."""
        ...


class FoundGraphs(Protocol):
    """The compiled graphs that a replica was told to run."""

    @property
    def located(self) -> LocatedArtifact:
        """Where they are."""
        ...


def create(options: ReplicaOptions, graphs: FoundGraphs | None = None) -> NeuronBackend:
    """Load the pool's compiled graphs onto the cores that Ray assigned.

    Args:
        options: what the replica was told.
        graphs: the pool's artifact, resolved.

    Raises:
        ValueError: no artifact is named, or not one or two cores are assigned.
        NeuronGraphError: the artifact does not fit this machine.
    """
    if graphs is None:
        raise ValueError(
            f"pool {options.pool!r}: artifact: missing; framework 'neuron' runs compiled graphs"
            " only: make them with python -m compile --accelerator neuron"
        )
    cores = assigned_cores(os.environ.get(VISIBLE_CORES))
    # The artifact has been found to be compiled with it.
    lora = options.loras[0].name if options.loras else None
    return NeuronBackend(graphs.located.folder, cores, lora)


class NeuronBackend(PipelineBackend):
    """See ``Backend``.

    Args:
        folder: artifact in optimum-neuron's layout.
        cores: one or two, as the runtime numbers them; its first is the process' core 0.
        lora: the adapter that the graphs were compiled with, if they were.

    Raises:
        NeuronGraphError: the artifact does not fit this machine.
    """

    def __init__(self, folder: Path, cores: tuple[int, ...], lora: str | None = None) -> None:
        parts = {name: read_part(folder, name) for name in present(folder)}
        check(folder, parts)
        unet = parts["unet"]
        pipe = load_pipeline(folder, len(cores))
        super().__init__(
            pipe,
            device=torch.device("cpu"),
            dtype=torch.float32,
            fixed_rows=unet.batch * len(cores),
            decode_batch=1,
            # One core does one thing at a time, and two both run the UNet.
            overlap_decode=False,
        )
        factor = self.facts.scale_factor
        self.facts = dataclasses.replace(
            self.facts,
            accelerator=f"neuron:{','.join(map(str, cores))}",
            fused_lora=lora,
            sizes=(((unet.width or 0) * factor, (unet.height or 0) * factor),),
        )


class HostVae:
    """optimum-neuron's VAE, with the dtype and device that a torch module would have."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, vae: Any) -> None:
        self.config = vae.config
        self.encode = vae.encode
        self.decode = vae.decode


def assigned_cores(visible: str | None) -> tuple[int, ...]:
    """The cores in ``NEURON_RT_VISIBLE_CORES``, e.g. ``3``, ``0,1`` or ``4-5``.

    Raises:
        ValueError: unset (the runtime would take every core of the machine), not readable, or
            not one or two.
    """
    if not visible:
        raise ValueError(
            f"{VISIBLE_CORES} is not set: give the pool resources: {{neuron_cores: 1}} or 2, so"
            " that Ray assigns cores"
        )
    cores: list[int] = []
    for part in visible.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if found is None:
            raise ValueError(f"{VISIBLE_CORES}: got {visible!r}; numbers and ranges needed")
        cores.extend(range(int(found[1]), int(found[2] or found[1]) + 1))
    if len(set(cores)) != len(cores) or len(cores) not in (1, 2):
        raise ValueError(
            f"{VISIBLE_CORES}: got {visible!r}; a replica runs on one or two cores"
            " (resources.neuron_cores)"
        )
    if len(cores) == 2 and cores[0] // 2 != cores[1] // 2:
        logger.info("cores %s are on two chips", visible)
    return tuple(cores)


def check(folder: Path, parts: dict[Any, CompiledPart]) -> None:
    """Refuse graphs that are incomplete, were made by a later compiler or for other cores.

    optimum-neuron does not look for pipelines.

    Raises:
        NeuronGraphError: names the file and the field.
    """
    index = read_json(folder, "model_index.json")
    if index.get("_class_name") not in _CLASSES:
        allowed = ", ".join(_CLASSES)
        raise NeuronGraphError(
            f"model_index.json: _class_name is {index.get('_class_name')!r}; supported: {allowed}"
        )
    large = index["_class_name"] == "StableDiffusionXLPipeline"
    needed = {"unet", "text_encoder", "vae_encoder", "vae_decoder"}
    for name in sorted(needed | ({"text_encoder_2"} if large else set())):
        if name not in parts:
            raise NeuronGraphError(f"{name}: no graph in {folder}")
    installed = version("neuronx-cc")
    here = current_instance_type() if get_neuron_major() != -1 else None
    for name, part in parts.items():
        where = f"{name}/config.json: neuron"
        # Without the build's hash, which pins do not name.
        if _release(part.compiler_version) > _release(installed):
            raise NeuronGraphError(
                f"{where}: compiler_version: made with neuronx-cc {part.compiler_version}, here"
                f" {installed}; compile again, or install that version or a later one"
            )
        if here is not None and part.target != here:
            raise NeuronGraphError(
                f"{where}: instance_type: made for {part.target} cores, here {here}"
            )
        if name != "unet" and part.batch != 1:
            raise NeuronGraphError(f"{where}: static_batch_size: got {part.batch}; 1 needed")
    factor = 2 ** (len(parts["vae_decoder"].config["block_out_channels"]) - 1)
    cells = (parts["unet"].height, parts["unet"].width)
    for name, scale in (("vae_decoder", 1), ("vae_encoder", factor)):
        size = tuple((side or 0) * scale for side in cells)
        if size != (parts[name].height, parts[name].width):
            raise NeuronGraphError(
                f"{name}/config.json: neuron: static_height, static_width: got"
                f" {parts[name].height}, {parts[name].width}; {size[0]}, {size[1]} needed to go"
                " with the UNet"
            )


def load_pipeline(folder: Path, cores: int) -> Pipeline:
    """optimum-neuron's pipeline around graphs that were loaded one by one.

    Args:
        folder: artifact in optimum-neuron's layout.
        cores: 1 or 2; see ``load_graphs``.
    """
    index = read_json(folder, "model_index.json")
    names = present(folder)
    told = {name: configs(folder, name) for name in names}
    tokenizers = {
        name: CLIPTokenizer.from_pretrained(folder / name)
        for name in ("tokenizer", "tokenizer_2")
        if name in index
    }
    pipe = _CLASSES[index["_class_name"]](
        config=index,
        configs={name: config for name, (config, _) in told.items()},
        neuron_configs={name: config for name, (_, config) in told.items()},
        data_parallel_mode="none",
        scheduler=_scheduler(folder),
        # Its default is true, also for models whose own is not.
        force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", False)),
        add_watermarker=False,
        model_save_dir=folder,
        **tokenizers,
        **load_graphs(folder, names, cores),
    )
    pipe.vae = HostVae(pipe.vae)
    return pipe


def _release(text: str) -> Version:
    return Version(Version(text).public)


def _scheduler(folder: Path) -> Any:
    name = read_json(folder, "scheduler/scheduler_config.json").get("_class_name")
    found = getattr(diffusers, str(name), None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise NeuronGraphError(
            f"scheduler/scheduler_config.json: _class_name: no scheduler {name!r}"
        )
    scheduler: Any = found
    return scheduler.from_pretrained(folder / "scheduler")
