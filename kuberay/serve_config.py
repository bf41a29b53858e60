"""A variant's Serve config: ``serve_config.yaml`` with its pools, by the settings' own classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kuberay.fleet import Family, Fleet, Variant
from serve_app.app import autoscaling_config
from serve_app.live import LiveSettings
from serve_app.settings import INGRESS, Settings
from serve_app.validation import SettingsError

SOURCE = Path(__file__).parents[1] / "serve_config.yaml"
CLUSTER = Path(__file__).parent / "cluster" / "cluster.env"
_REPOSITORY = "ARTIFACT_REPO"

Plain = dict[str, Any]


def compose(name: str, fleet: Fleet, source: Path = SOURCE) -> Plain:
    """The Serve config of variant ``name``: plain values, in Serve's schema.

    Raises:
        SettingsError: one line per setting that the service would refuse.
    """
    variant = fleet.variants[name]
    config: Plain = merged(yaml.safe_load(source.read_text(encoding="utf-8")), variant.over)
    # Copies throughout, or YAML would show what is shared as anchors.
    args = {
        "model": dict(variant.model),
        "ingress": copy.deepcopy(variant.ingress),
        "pools": _pools(variant, fleet.families),
    }
    settings = Settings.parse(args)
    live = {**copy.deepcopy(variant.live), **_prices(variant, fleet.families)}
    LiveSettings.parse(live, settings)
    application = config["applications"][0]
    application["args"] = args
    application["autoscaling_policy"]["policy_kwargs"]["pools"] = copy.deepcopy(args["pools"])
    application["deployments"] = [
        {"name": INGRESS, "user_config": live},
        *(
            {"name": pool, "autoscaling_config": autoscaling_config(declared)}
            for pool, declared in settings.pools.items()
        ),
    ]
    return config


def merged(base: Any, over: Any) -> Any:
    """``over`` laid over ``base``: mappings key by key, anything else as a whole."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return copy.deepcopy(over)
    both = {**copy.deepcopy(dict(base)), **over}
    return {k: merged(base[k], over[k]) if k in base and k in over else v for k, v in both.items()}


def _pools(variant: Variant, families: Mapping[str, Family]) -> dict[str, Plain]:
    pools = copy.deepcopy(variant.pools)
    for family in variant.families:
        pool = families[family].pool
        # 0 is said too: a pool that any machine can host would otherwise keep one.
        pools[family] = {
            **pool.model_dump(mode="json", exclude_unset=True),
            "min_replicas": variant.warm.get(family, 0),
            # Neuron runs compiled graphs only; a GPU compiles for itself until there are some.
            "artifact": {
                "source": artifact_repository(),
                "fallback": "refuse" if pool.framework == "neuron" else "jit",
            },
        }
    return pools


def artifact_repository(cluster: Path = CLUSTER) -> str:
    """The hub repository that compile Jobs publish to and pools load from.

    Raises:
        SettingsError: ``cluster.env`` does not name one.
    """
    for line in cluster.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name == _REPOSITORY and value.strip():
            return value.strip()
    raise SettingsError(f"{cluster.name}: {_REPOSITORY}: missing; name a hub repository")


def _prices(variant: Variant, families: Mapping[str, Family]) -> Plain:
    prices = {family: families[family].price for family in variant.families}
    return {"prices": prices} if prices else {}
