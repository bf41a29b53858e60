"""What is served where: families of hardware and variants of the service, read and validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from serve_app.live import Price
from serve_app.pool_settings import PoolSettings
from serve_app.validation import SettingsError, Strict, parse

HERE = Path(__file__).parent
FAMILIES = HERE / "serve" / "families.yaml"
VARIANTS = HERE / "serve" / "variants.yaml"


class Node(Strict):
    """What Karpenter may launch for a family.

    Attributes:
        family: EC2 instance family, such as ``g5``.
        sizes: instance sizes, the smallest first.
        device: Kubernetes resource of the accelerator; also the key of the nodes' taint.
        limit: most devices of all nodes together.
    """

    family: str
    sizes: list[str] = Field(min_length=1)
    device: Literal["nvidia.com/gpu", "aws.amazon.com/neuron"]
    limit: int = Field(ge=1)


class Request(Strict):
    """What a pod asks of its node.

    Attributes:
        cpu: cores.
        memory: a Kubernetes quantity, such as ``12Gi``; also the limit.
        devices: accelerators.
    """

    cpu: int = Field(ge=1)
    memory: str = Field(pattern=r"^[1-9][0-9]*[MG]i$")
    devices: int = Field(ge=1)


class Family(Strict):
    """One hardware family.

    Attributes:
        optional: in ``components/NAME`` instead of among what every overlay has.
        price: US dollars per replica and hour.
        image: the accelerator in the image's tag.
        node: what Karpenter may launch.
        pod: what a worker pod asks for.
        compile: what the compile Job asks for.
        pool: the pool's settings.
    """

    optional: bool = False
    price: Price
    image: Literal["cuda", "neuron"]
    node: Node
    pod: Request
    compile: Request
    pool: PoolSettings

    @model_validator(mode="after")
    def _a_pod_is_a_node(self) -> Family:
        # The planner pays for nodes, Ray asks for pods: they must be the same thing.
        if self.pool.elastic is None:
            raise ValueError("pool.elastic is missing: these nodes come on demand")
        replicas, devices = self.pool.elastic.replicas_per_node, self.pod.devices
        if replicas != devices:
            raise ValueError(
                f"pool.elastic.replicas_per_node is {replicas}, pod.devices {devices}: a replica"
                " takes one device, and a pod has a node of its own"
            )
        return self

    @property
    def pods(self) -> int:
        """Most worker pods."""
        return self.pool.max_replicas // self.pod.devices


class Variant(Strict):
    """What one overlay serves.

    Attributes:
        service: the RayService's name before the overlay renames it.
        families: hardware families, in the order of the worker groups.
        warm: family -> replicas kept although nobody asks; those left out go to zero.
        pools: further pools, as under ``args.pools``.
        over: changes of ``serve_config.yaml``'s top level, merged into it.
        model: ``args.model``.
        ingress: ``args.ingress``.
        live: the ingress' ``user_config``, without the families' prices.
    """

    service: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,45}[a-z0-9])?$")
    families: list[str]
    warm: dict[str, int] = Field(default_factory=dict)
    pools: dict[str, dict[str, Any]] = Field(default_factory=dict)
    over: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any]
    ingress: dict[str, Any]
    live: dict[str, Any]

    @model_validator(mode="after")
    def _warm_ones_are_there(self) -> Variant:
        absent = sorted(set(self.warm) - set(self.families))
        if absent:
            raise ValueError(f"warm names {', '.join(absent)}, which families does not")
        return self


class Fleet(Strict):
    """All families and variants by name."""

    families: dict[str, Family]
    variants: dict[str, Variant]

    @model_validator(mode="after")
    def _families_are_known(self) -> Fleet:
        for name, variant in self.variants.items():
            unknown = sorted(set(variant.families) - set(self.families))
            if unknown:
                raise ValueError(
                    f"variants.{name}.families names {', '.join(unknown)}; families.yaml has"
                    f" {', '.join(self.families)}"
                )
        return self


def load(families: Path = FAMILIES, variants: Path = VARIANTS) -> Fleet:
    """Read both files.

    Raises:
        SettingsError: one line per error; also for a file that is not YAML.
    """
    raw = {"families": _read(families), "variants": _read(variants).get("variants")}
    return parse(Fleet, raw, what=f"{families.name} and {variants.name}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path.name} is not YAML: {error}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{path.name}: got {type(found).__name__}; a mapping is needed")
    return found
