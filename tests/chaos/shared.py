"""The service that most scenarios share: three pools that serve, and two that have trouble."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile.exporters import create_exporter
from compile.manifest import ModelRecord
from compile.snapshot import content_digest
from tests.chaos.hardship import SmallDisk
from tests.chaos.stand import BACK_WITHIN_S, INGRESS, POOLS, Stand, resource, serve_config
from tests.compile.builds import make_build
from tests.e2e.conftest import wait_for
from tests.hub_server import Hub, add_folder
from tests.moto_server import NAMESPACE, REGION, MotoServer

# A pool whose adapter is on a hub, and one whose artifact is damaged; both are at zero.
HUB, DAMAGED = "hub", "damaged"
SPARE = "spare_card"  # their node's
REPO, WEIGHTS = "someone/hat", "hat.safetensors"
BODY_TIMEOUT_S = 15
# Fewer than a run's pictures, so that an outage of CloudWatch makes some of them too many.
_MOST_WAITING = 100
_ENGINE = {"threads": 1, "deterministic": True, "max_rows": 4}
_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


@dataclass(kw_only=True)
class Shared(Stand):
    """See the module.

    Attributes:
        disk: where the audit log and what the hub's pool fetches are.
        moto: where metrics go.
        hub_port: where the pool looks for its hub.
        folder: of everything else.
    """

    disk: SmallDisk
    moto: MotoServer
    hub_port: int
    folder: Path

    def set_environment(self, *deployments: str, **more: str) -> None:
        """More environment variables for their replicas, which are replaced for it."""
        for name in deployments:
            self.deployment(name)["ray_actor_options"] = actor_options(name, **more)
        self.deploy()

    def renew(self, counts: Mapping[str, int], **more: str) -> None:
        """The same for these, and wait until each has so many replicas, all of them new."""
        before = self.replica_ids()
        self.scale(**{name: count for name, count in counts.items() if name != INGRESS})
        self.set_environment(*counts, **more)

        def renewed() -> bool:
            now = self.replica_ids()
            return all(
                len(now[name]) == count and not {*now[name]} & {*before[name]}
                for name, count in counts.items()
            )

        wait_for("new replicas", renewed, BACK_WITHIN_S)

    def fill_hub(self, hub: Hub) -> None:
        """Give ``hub`` the adapter, under the branch that the pool names."""
        source = self.folder / "hat"
        source.mkdir(exist_ok=True)
        write_adapter(source / WEIGHTS)
        add_folder(hub, REPO, source)


def actor_options(name: str, **more: str) -> dict[str, Any]:
    """What Ray is told of a replica of the ingress or of a pool that serves."""
    return {
        "num_cpus": 0,
        "resources": {"front": 0.1} if name == INGRESS else {resource(name): 1},
        "runtime_env": {"env_vars": _THREADS | more},
    }


def write_adapter(path: Path) -> None:
    """A LoRA adapter of rank 2 for one layer of the tiny model's UNet."""
    import torch
    from safetensors.torch import save_file

    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    torch.manual_seed(0)
    weights = {
        f"{layer}.lora_A.weight": torch.randn(2, 32),
        f"{layer}.lora_B.weight": torch.randn(32, 2),
    }
    save_file(weights, str(path))


def make_config(
    folder: Path, port: int, targets: Path, *, disk: Path, hub_port: int, moto_url: str
) -> dict[str, Any]:
    """Pools that are bit-equal whatever shares a batch, scaled by a file."""
    pools: dict[str, Any] = {
        pool: {
            "accelerator": resource(pool),
            "framework": "cpu",
            "resources": {"num_cpus": 0, "resources": {resource(pool): 1}},
            "engine": _ENGINE,
            "max_replicas": 2,
        }
        for pool in POOLS
    }
    beside = {"num_cpus": 0, "resources": {SPARE: 1}}
    troubled = {"accelerator": "none", "framework": "cpu", "resources": beside, "weight": 0}
    adapter = {"source": REPO, "weight_name": WEIGHTS, "revision": "main"}
    pools[HUB] = troubled | {"engine": _ENGINE, "loras": {"hat": adapter}}
    registry = folder / "registry"
    pools[DAMAGED] = troubled | {
        "engine": _ENGINE,
        "artifact": {"source": str(registry), "tag": "graphs"},
    }
    config = serve_config(
        folder, port, pools, ("FilePolicy", {"path": str(targets)}), {}, max_replicas=2
    )
    damage_artifact(registry / "graphs", folder / "model")
    (application,) = config["applications"]
    application["args"] |= {
        "limits": {"body_timeout_s": BODY_TIMEOUT_S, "request_timeout_s": 300},
        "access": {"audit": {"file": str(disk / "audit.log")}},
        "telemetry": {
            "cloudwatch": {
                "region": REGION,
                "namespace": NAMESPACE,
                "endpoint_url": moto_url,
                "period_s": 0.5,
                "max_waiting": _MOST_WAITING,
            }
        },
    }
    entries = {one["name"]: one for one in application["deployments"]}
    for name in (INGRESS, *POOLS):  # so that `renew` can put it back
        entries[name]["ray_actor_options"] = actor_options(name)
    entries[HUB]["ray_actor_options"] = beside | {
        "runtime_env": {
            "env_vars": _THREADS
            | {
                "HF_ENDPOINT": f"http://127.0.0.1:{hub_port}",
                "HF_HOME": str(disk / "hub"),
                "HF_HUB_DISABLE_XET": "1",
            }
        }
    }
    return config


def damage_artifact(folder: Path, model: Path) -> None:
    """An artifact that is for this very model and machine, one of whose files has changed."""
    made_for = ModelRecord(source=str(model), revision=content_digest(model))
    environment = dict(create_exporter("cpu").environment())
    make_build(folder, model=made_for, environment=environment)
    damaged = folder / "unet-2.pt2"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(bytes(data))


def targets_file(folder: Path) -> Path:
    """Replica counts at the beginning."""
    path = folder / "targets.json"
    wanted = dict.fromkeys(POOLS, 1) | {HUB: 0, DAMAGED: 0}
    path.write_text(json.dumps(wanted), encoding="utf-8")
    return path
