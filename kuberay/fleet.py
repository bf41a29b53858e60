"""What is served where: families of hardware and variants of the service, read and validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from serve_app.live import Price
from serve_app.settings import SettingsError, Strict, parse

HERE = Path(__file__).parent
FAMILIES = HERE / "serve" / "families.yaml"
VARIANTS = HERE / "serve" / "variants.yaml"


class Family(Strict):
    """One hardware family.

    Attributes:
        price: US dollars per replica and hour.
        pool: the pool's settings, as under ``args.pools``; validated with all others.
    """

    price: Price
    pool: dict[str, Any]


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
