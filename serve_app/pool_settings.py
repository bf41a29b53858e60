"""Settings of one pool."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from deployments.options import Admission, DType, Fallback, Framework, Load, TorchCompile
from serve_app.sources import LoraSettings
from serve_app.validation import Strict

Drain = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Side = Annotated[int, Field(strict=True, ge=8, le=8192)]
Weight = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]

# Ray's own name for what it assigns by NEURON_RT_VISIBLE_CORES.
NEURON_CORES = "neuron_cores"
_LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_RESERVED_RESOURCES = frozenset({"CPU", "GPU", "memory", "object_store_memory"})


class ResourceSettings(Strict):
    """What Ray reserves for one replica.

    Attributes:
        num_gpus: GPUs; a fraction below 1 shares one, above 1 only whole numbers.
        num_cpus: CPU cores (Ray's logical cores).
        resources: other Ray resources, whole units only, e.g. ``{"neuron_cores": 2}``.
    """

    num_gpus: float = Field(default=0, ge=0, le=64, allow_inf_nan=False)
    num_cpus: float = Field(default=1, ge=0, le=1024, allow_inf_nan=False)
    resources: dict[str, Annotated[int, Field(strict=True, ge=1, le=4096)]] = Field(
        default_factory=dict
    )

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("above 1 only whole numbers are allowed")
        return value

    @field_validator("resources")
    @classmethod
    def _not_reserved(cls, value: dict[str, int]) -> dict[str, int]:
        for name in value:
            if name in _RESERVED_RESOURCES or not name.strip():
                raise ValueError(
                    f"{name!r} is not allowed here: use num_cpus and num_gpus for CPU and GPU"
                )
        return value

    def needs(self) -> dict[str, float]:
        """Ray resource name -> amount for one replica; zero amounts left out."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: float(amount) for name, amount in wanted.items() if amount > 0}

    @property
    def special(self) -> bool:
        """Whether a replica needs hardware that a plain machine lacks."""
        return self.num_gpus > 0 or bool(self.resources)


class EngineSettings(Strict):
    """How one replica's engine runs; the fields mean what ``ReplicaOptions`` says.

    Attributes:
        dtype: arithmetic of the model; ``None`` lets the backend choose.
        threads: CPU threads of the replica; ``None`` lets the backend choose.
        max_rows: most batch rows in one step (a guided request takes two).
        max_queued: most requests waiting in one replica before it answers "overloaded".
        deterministic: fixed padded batch, so that a picture is bit-equal whatever shares it.
        admission: which waiting request enters next.
        hang_after_s: a step that takes this many seconds has the replica replaced.
        torch_compile: ``"off"``, ``"default"`` or ``"max-autotune"``. This and the next two are for
            pools of framework ``cuda`` without ``artifact``, which compile when they start.
        compiled_sizes: ``[width, height]`` of the pictures to compile for.
        cuda_graphs: record batch sizes as CUDA graphs where that pays.
    """

    dtype: DType | None = None
    threads: int | None = Field(default=None, ge=1, le=1024)
    max_rows: int = Field(default=16, ge=2, le=1024)
    max_queued: int = Field(default=512, ge=1, le=100_000)
    deterministic: bool = False
    admission: Admission = "deadline"
    hang_after_s: float = Field(default=60, gt=0, le=86_400, allow_inf_nan=False)
    torch_compile: TorchCompile = "default"
    compiled_sizes: tuple[tuple[Side, Side], ...] = Field(default=(), max_length=16)
    cuda_graphs: bool = True


class EmulationSettings(Strict):
    """Speed of the hardware that a pool of framework ``emulated`` pretends to be.

    Attributes:
        step_s: seconds of one denoising step, whatever shares the batch.
    """

    step_s: float = Field(gt=0, le=3600, allow_inf_nan=False)


class ArtifactSettings(Strict):
    """Compiled graphs that a pool's replicas run; made by ``python -m compile``.

    They are native code: name a registry that only you can write to, and pin ``revision``.

    Attributes:
        source: registry: a folder (absolute, or starting with ``.`` or ``~``) or a hub repository.
        tag: which artifact; when absent, the newest that fits model, size and machine.
        revision: what the tag must mean: a commit, or ``sha256:…`` for a folder.
        load: ``"graphs"``, or ``"cache"``: compile just in time with the artifact's compile cache.
        fallback: when it cannot be used: ``"refuse"`` to start, or ``"jit"``: compile just in time.
    """

    source: str = Field(min_length=1)
    tag: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*$")
    revision: str | None = Field(default=None, pattern=r"^([0-9a-f]{40}|sha256:[0-9a-f]{64})$")
    load: Load = "graphs"
    fallback: Fallback = "refuse"

    @model_validator(mode="after")
    def _usable(self) -> ArtifactSettings:
        folder = self.source.startswith((".", "/", "~"))
        if not folder and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.source):
            raise ValueError(
                f"source {self.source!r} is not a folder (absolute, or starting with '.' or '~')"
                " or a hub repository (owner/name)"
            )
        if self.revision is not None and self.tag is None:
            raise ValueError("revision pins a tag: name the tag too")
        return self


class ElasticSettings(Strict):
    """A pool whose nodes come on demand and are paid for while they are there.

    Its replica count is planned by price and latency objective; that of other pools follows the
    hardware present.

    Attributes:
        provisioning_s: seconds within which a node comes, if it comes at all; beyond them the
            hardware is taken to be out of stock.
        start_s: seconds from a node to a ready replica (image, model, warm-up).
        replicas_per_node: replicas that share a node, which is paid for as a whole.
    """

    provisioning_s: float = Field(default=180, gt=0, le=86_400, allow_inf_nan=False)
    start_s: float = Field(default=60, ge=0, le=86_400, allow_inf_nan=False)
    replicas_per_node: int = Field(default=1, ge=1, le=64)


class PoolSettings(Strict):
    """One pool: a kind of accelerator, a framework and how many replicas it may have.

    Attributes:
        accelerator: free label shown in ``X-Accelerator``, e.g. ``"nvidia-l4"``.
        framework: which backend the replicas run.
        resources: what Ray reserves for each replica.
        weight: share of the traffic relative to the other available pools; a pool of weight 0
            is used only when no pool with a positive weight is available.
        min_replicas: replicas kept while the hardware is present; when absent, 1 for a pool that
            any machine can host and 0 for one that needs special resources.
        max_replicas: most replicas.
        drain_s: seconds that a replica being stopped has to finish its requests; what is cut off
            is painted elsewhere, if there is another pool.
        engine: the engine's settings.
        artifact: compiled graphs to run; when absent, a pool of framework ``cuda`` compiles as its
            engine's settings say, and others run uncompiled.
        loras: LoRA adapters by the name that requests give; each picture chooses one or none.
        fuse_lora: the pool's one adapter is part of its every picture. Costs no time a step, and
            goes with ``artifact``. Framework ``neuron`` takes no other: the artifact must have been
            compiled with this very adapter and scale (``python -m compile --lora``).
        emulation: speed of the pretended hardware; for framework ``emulated`` only.
        elastic: ``None``: the pool has replicas where its hardware is; else its nodes come on
            demand and it has as many as the planner wants.
    """

    accelerator: str = Field(min_length=1, max_length=64, pattern=r"^[\x20-\x7e]+$")
    framework: Framework
    resources: ResourceSettings = Field(default_factory=ResourceSettings)
    weight: Weight = 1
    min_replicas: int = Field(default=None, ge=0, le=1000)  # type: ignore[assignment]
    max_replicas: int = Field(default=1, ge=1, le=1000)
    drain_s: Drain = 5
    engine: EngineSettings = Field(default_factory=EngineSettings)
    artifact: ArtifactSettings | None = None
    loras: dict[str, LoraSettings] = Field(default_factory=dict, max_length=64)
    fuse_lora: bool = False
    emulation: EmulationSettings | None = None
    elastic: ElasticSettings | None = None

    @property
    def label(self) -> str:
        """The accelerator as people are shown it: an emulated one says so."""
        emulated = self.framework == "emulated"
        return f"{self.accelerator} (emulated)" if emulated else self.accelerator

    def has(self, lora: str | None) -> bool:
        """Whether it can paint with this LoRA adapter, or without one."""
        return not self.fuse_lora if lora is None else lora in self.loras

    @property
    def lacks(self) -> str:
        """The setting without which no replica can start; ``""``: none."""
        return "artifact" if self.framework == "neuron" and self.artifact is None else ""

    @field_validator("min_replicas", mode="before")
    @classmethod
    def _one_on_any_machine(cls, value: Any, info: ValidationInfo) -> Any:
        # A plain pool has nothing that could bring it up from 0.
        if value is not None:
            return value
        resources = info.data.get("resources")
        return 1 if resources is not None and not resources.special else 0

    @model_validator(mode="after")
    def _emulation_goes_with_its_framework(self) -> PoolSettings:
        if (self.framework == "emulated") != (self.emulation is not None):
            raise ValueError(
                f"framework {self.framework!r} {'needs' if self.emulation is None else 'takes no'}"
                " emulation; it goes with framework 'emulated' only"
            )
        return self

    @field_validator("loras")
    @classmethod
    def _lora_names(cls, value: dict[str, LoraSettings]) -> dict[str, LoraSettings]:
        for name in value:
            if not _LORA_NAME.fullmatch(name):
                raise ValueError(
                    f"the adapter name {name!r} is not letters, digits, '_' and '-', at most 63"
                )
        return value

    @model_validator(mode="after")
    def _fused_alone(self) -> PoolSettings:
        if self.fuse_lora and len(self.loras) != 1:
            raise ValueError(f"fuse_lora goes with one adapter; loras has {len(self.loras)}")
        if self.framework == "neuron" and self.loras and not self.fuse_lora:
            raise ValueError(
                "loras: framework 'neuron' has its weights compiled in: one adapter and"
                " fuse_lora: true, with an artifact made by python -m compile --lora"
            )
        if self.artifact is not None and self.loras and not self.fuse_lora:
            raise ValueError(
                "loras: an artifact's graphs have no place for adapters that pictures choose: one"
                " adapter and fuse_lora: true, or no artifact"
            )
        return self

    @model_validator(mode="after")
    def _compiled_once(self) -> PoolSettings:
        plain = EngineSettings()
        names = ("torch_compile", "compiled_sizes", "cuda_graphs")
        told = [name for name in names if getattr(self.engine, name) != getattr(plain, name)]
        if told and self.framework != "cuda":
            raise ValueError(
                f"engine.{told[0]} is for framework 'cuda', not {self.framework!r}: leave it out"
            )
        if told and self.artifact is not None:
            raise ValueError(
                f"engine.{told[0]} has no effect beside artifact, whose graphs run instead: leave"
                " out one of them"
            )
        return self

    @model_validator(mode="after")
    def _neuron_compiles_ahead(self) -> PoolSettings:
        artifact = self.artifact
        if self.framework == "neuron" and artifact is not None:
            if artifact.fallback == "jit":
                raise ValueError("artifact.fallback 'jit' is not for framework 'neuron': 'refuse'")
            if artifact.load == "cache":
                raise ValueError("artifact.load 'cache' is not for framework 'neuron': 'graphs'")
        return self

    @model_validator(mode="after")
    def _whole_nodes(self) -> PoolSettings:
        per_node = 1 if self.elastic is None else self.elastic.replicas_per_node
        for name, count in (("min", self.min_replicas), ("max", self.max_replicas)):
            if count % per_node:
                raise ValueError(
                    f"{name}_replicas {count} is not a multiple of elastic.replicas_per_node"
                    f" {per_node}: nodes come whole"
                )
        return self

    @model_validator(mode="after")
    def _bounds_in_order(self) -> PoolSettings:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}"
            )
        return self

    @model_validator(mode="after")
    def _neuron_has_one_or_two_cores(self) -> PoolSettings:
        cores = self.resources.resources.get(NEURON_CORES)
        if self.framework == "neuron" and cores not in (1, 2):
            raise ValueError(
                f"framework 'neuron' needs resources.resources.{NEURON_CORES} of 1 or 2, got"
                f" {cores}"
            )
        return self
