"""What one replica is told at start; built from the service's settings, validated there."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Framework = Literal["cpu", "cuda", "neuron", "emulated"]
DType = Literal["float32", "bfloat16", "float16"]
Admission = Literal["deadline", "shortest"]
Fallback = Literal["refuse", "jit"]
Load = Literal["graphs", "cache"]
TorchCompile = Literal["off", "default", "max-autotune"]
# Width and height in pixels.
Size = tuple[int, int]


class ArtifactOptions(BaseModel):
    """Where a replica's compiled graphs are.

    Attributes:
        source: registry: a folder or a hub repository (owner/name).
        tag: which artifact; ``None`` for the newest that fits model, size and machine.
        revision: what the tag must mean: a commit, or a folder's ``sha256:…``.
        load: ``graphs``, or ``cache`` to compile just in time with the artifact's compile cache.
        fallback: when it cannot be used: ``refuse`` to start, or compile just in time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    tag: str | None = None
    revision: str | None = None
    load: Load = "graphs"
    fallback: Fallback = "refuse"


class LoraOptions(BaseModel):
    """One LoRA adapter.

    Attributes:
        name: what requests call it.
        source: a local folder or a Hugging Face repository id.
        revision: commit or tag; required for a repository.
        weight_name: its safetensors file; ``None`` for a folder that holds only one.
        scale: factor of its effect.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    revision: str | None = None
    weight_name: str | None = None
    scale: float = 1.0


class ReplicaOptions(BaseModel):
    """Everything a replica needs to build its backend and engine.

    Attributes:
        pool: name of the pool, as in the settings.
        accelerator: label shown to people, e.g. ``L4`` or ``cpu``.
        framework: which backend runs the model.
        model_source: ``embedded``, a local folder, or a Hugging Face model id.
        model_revision: commit, tag or branch; required for a model id.
        dtype: weights and activations; ``None`` for the backend's own choice.
        threads: CPU threads for tensor work; ``None`` lets the backend choose.
        max_rows: most batch rows per step; calibration may lower it (a guided request takes two).
        max_queued: most pictures waiting for a slot before new ones are refused.
        deterministic: always run the same padded batch, so that neighbours cannot change a bit.
        admission: which waiting picture gets the next slot.
        hang_after_s: a step longer than this (and than ten of the calibration's longest) means that
            the device hangs: the replica reports unhealthy and is replaced.
        artifact: compiled graphs to run, in the place of whatever the backend itself would compile;
            ``None``: the backend does as it does.
        safety_source: folder or Hugging Face id of the safety checker that every picture must pass;
            ``None`` for none.
        safety_revision: as ``model_revision``.
        torch_compile: framework ``cuda`` without ``artifact``, as the next two: compile the UNet
            and the VAE's decoder for every batch size before the replica is ready;
            ``max-autotune`` tries kernels out for minutes more.
        compiled_sizes: picture sizes (width, height) to compile for; empty for the model's own.
            Others run uncompiled.
        cuda_graphs: record batch sizes as CUDA graphs where that is faster.
        loras: adapters to load.
        fuse_lora: make the one adapter part of the weights, else each picture chooses.
        emulated_step_s: framework ``emulated``: seconds that one denoising step takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    pool: str
    accelerator: str
    framework: Framework
    model_source: str
    model_revision: str | None = None
    dtype: DType | None = None
    threads: int | None = Field(default=None, ge=1)
    max_rows: int = Field(default=16, ge=2)
    max_queued: int = Field(default=512, ge=1)
    deterministic: bool = False
    admission: Admission = "deadline"
    hang_after_s: float = Field(default=60, gt=0)
    artifact: ArtifactOptions | None = None
    safety_source: str | None = None
    safety_revision: str | None = None
    torch_compile: TorchCompile = "default"
    compiled_sizes: tuple[Size, ...] = ()
    cuda_graphs: bool = True
    loras: tuple[LoraOptions, ...] = ()
    fuse_lora: bool = False
    emulated_step_s: float | None = Field(default=None, gt=0)
