"""EC2 instance types as Karpenter knows them: the accelerated families in use, and plain ones.

Accelerated sizes are those of Karpenter v1.14.1's instance type page. Plain sizes follow from
their family: cores by size, 2 (c), 4 (m) or 8 (r) GiB a core.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

GIB = 2.0**30
MIB = 2.0**20

# Kept free for DaemonSets: kube-proxy, VPC CNI, device plugin, CloudWatch agent and Fluent Bit.
DAEMONS = {"cpu": 0.5, "memory": 1.0 * GIB}

_CORES = {"large": 2, "xlarge": 4} | {f"{n}xlarge": 4 * n for n in (2, 4, 8, 12, 16, 24, 32, 48)}
_GIB_A_CORE = {"c": 2, "m": 4, "r": 8}
_PLAIN = [f"{c}{g}" for c in "cmr" for g in ("5", "5a", "6i", "6a", "7i", "7a", "7i-flex", "8i")]


@dataclass(frozen=True)
class Instance:
    """One instance type; see ``labels`` for what Karpenter's requirements can name."""

    family: str
    size: str
    cpus: int
    memory_gib: int
    nvme_gb: int = 0
    gpus: int = 0
    gpu_name: str = ""
    gpu_mib: int = 0
    neurons: int = 0
    accelerator_name: str = ""
    arch: str = "amd64"

    @property
    def name(self) -> str:
        """Such as ``g5.xlarge``."""
        return f"{self.family}.{self.size}"

    @property
    def accelerated(self) -> bool:
        """Whether it has a device that is paid for."""
        return bool(self.gpus or self.neurons)

    @functools.cache  # noqa: B019  (a table that lives as long as the process)
    def labels(self) -> dict[str, str]:
        """Label -> value, of those that depend on the instance type alone."""
        aws = "karpenter.k8s.aws/instance-"
        found = {
            "node.kubernetes.io/instance-type": self.name,
            "kubernetes.io/arch": self.arch,
            "kubernetes.io/os": "linux",
            f"{aws}family": self.family,
            f"{aws}size": self.size,
            f"{aws}category": re.match("[a-z]+", self.family)[0],  # type: ignore[index]
            f"{aws}generation": next(c for c in self.family if c.isdigit()),
            f"{aws}cpu": str(self.cpus),
            f"{aws}memory": str(self.memory_gib * 1024),
            f"{aws}hypervisor": "nitro",
        }
        if self.nvme_gb:
            found[f"{aws}local-nvme"] = str(self.nvme_gb)
        if self.gpus:
            found |= {
                f"{aws}gpu-name": self.gpu_name,
                f"{aws}gpu-count": str(self.gpus),
                f"{aws}gpu-memory": str(self.gpu_mib),
                f"{aws}gpu-manufacturer": "nvidia",
            }
        if self.neurons:
            found |= {
                f"{aws}accelerator-name": self.accelerator_name,
                f"{aws}accelerator-count": str(self.neurons),
                f"{aws}accelerator-manufacturer": "aws",
            }
        return found

    def allocatable(self) -> dict[str, float]:
        """What pods can have beside DaemonSets: cores, bytes, devices.

        Karpenter's estimate for EKS: 7.5 % of the memory goes to the hypervisor, then the kubelet's
        reserve by pods a node, then the eviction threshold.
        """
        reserved_cpu = sum(
            share * max(0, min(self.cpus, upto) - above)
            for above, upto, share in (
                (0, 1, 0.06),
                (1, 2, 0.01),
                (2, 4, 0.005),
                (4, 999, 0.0025),
            )
        )
        pods = 29 if self.cpus <= 2 else 58 if self.cpus <= 8 else 234 if self.cpus <= 48 else 737
        memory = self.memory_gib * GIB * 0.925 - (255 + 11 * pods + 100) * MIB
        return {
            "cpu": self.cpus - reserved_cpu - DAEMONS["cpu"],
            "memory": memory - DAEMONS["memory"],
            "nvidia.com/gpu": float(self.gpus),
            "aws.amazon.com/neuron": float(self.neurons),
            "aws.amazon.com/neuroncore": 2.0 * self.neurons,
        }


def _gpu(family: str, name: str, mib: int, sizes: dict[str, tuple[int, int, int, int]]) -> None:
    for size, (cpus, gib, gpus, nvme) in sizes.items():
        add(Instance(family, size, cpus, gib, nvme_gb=nvme, gpus=gpus, gpu_name=name, gpu_mib=mib))


def _neuron(family: str, name: str, sizes: dict[str, tuple[int, int, int, int]]) -> None:
    for size, (cpus, gib, neurons, nvme) in sizes.items():
        add(Instance(family, size, cpus, gib, nvme_gb=nvme, neurons=neurons, accelerator_name=name))


INSTANCES: dict[str, Instance] = {}


def add(instance: Instance) -> None:
    """Put it into ``INSTANCES``."""
    INSTANCES[instance.name] = instance


_gpu(
    "g5",
    "a10g",
    22888,
    {
        "xlarge": (4, 16, 1, 250),
        "2xlarge": (8, 32, 1, 450),
        "4xlarge": (16, 64, 1, 600),
        "8xlarge": (32, 128, 1, 900),
        "16xlarge": (64, 256, 1, 1900),
        "12xlarge": (48, 192, 4, 3800),
        "24xlarge": (96, 384, 4, 3800),
        "48xlarge": (192, 768, 8, 7600),
    },
)
_gpu(
    "g6",
    "l4",
    22888,
    {
        "xlarge": (4, 16, 1, 250),
        "2xlarge": (8, 32, 1, 450),
        "4xlarge": (16, 64, 1, 600),
        "8xlarge": (32, 128, 1, 900),
        "16xlarge": (64, 256, 1, 1880),
        "12xlarge": (48, 192, 4, 3760),
        "24xlarge": (96, 384, 4, 3760),
        "48xlarge": (192, 768, 8, 7520),
    },
)
_gpu(
    "g6e",
    "l40s",
    45776,
    {"xlarge": (4, 32, 1, 250), "2xlarge": (8, 64, 1, 450), "4xlarge": (16, 128, 1, 600)},
)
_gpu("p4d", "a100", 40960, {"24xlarge": (96, 1152, 8, 8000)})
_gpu("p4de", "a100", 81920, {"24xlarge": (96, 1152, 8, 8000)})
_gpu("p5", "h100", 81920, {"4xlarge": (16, 256, 1, 3800), "48xlarge": (192, 2048, 8, 30400)})
_neuron(
    "inf2",
    "inferentia2",
    {
        "xlarge": (4, 16, 1, 0),
        "8xlarge": (32, 128, 1, 0),
        "24xlarge": (96, 384, 6, 0),
        "48xlarge": (192, 768, 12, 0),
    },
)
_neuron("trn1", "trainium", {"2xlarge": (8, 32, 1, 474), "32xlarge": (128, 512, 16, 7600)})
_neuron("trn1n", "trainium", {"32xlarge": (128, 512, 16, 7600)})
for _family in _PLAIN:
    for _size, _cpus in _CORES.items():
        add(Instance(_family, _size, _cpus, _cpus * _GIB_A_CORE[_family[0]]))
