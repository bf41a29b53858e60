"""Who is measured: how each server is started and what it is called."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PORT = 8123
# What the peers' batching waits for company, seconds, and how many requests it collects at most.
# More than one pipeline call takes: calls of equal steps are fuller then.
COLLECT_S = 0.01
GATHER = 16
# Guided pictures in one call, two rows each: as many rows as our replica runs.
MOST = 8
OURS, OURS_HAPROXY, OURS_LEAN = (
    "imagine-serve",
    "imagine-serve, HAProxy",
    "imagine-serve, no dashboard",
)
PLAIN, BY_HAND = "FastAPI, one at a time", "FastAPI, batching by hand"
LITSERVE, BENTOML, RAY_BATCH = "LitServe", "BentoML", "Ray Serve, @serve.batch"
OTHERS = (PLAIN, BY_HAND, LITSERVE, BENTOML, RAY_BATCH)


@dataclass(frozen=True)
class Contestant:
    """A server.

    Attributes:
        name: as the tables show it.
        command: starts it on ``PORT``.
        batches: whether it batches statically.
        environment: besides the common one.
    """

    name: str
    command: tuple[str, ...]
    batches: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether it is this project."""
        return self.name.startswith(OURS)


def contestants(folder: Path) -> list[Contestant]:
    """All of them; configs are written to ``folder``."""
    python, peers = sys.executable, str(ROOT / ".venv-peers" / "bin" / "python")
    fast = (python, "-m", "uvicorn", "--port", str(PORT), "--log-level", "error")
    module = "benchmarks.peers.servers"
    ours = serving(folder, our_config())
    haproxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    plain_ray = {"name": "plain", "route_prefix": "/", "import_path": f"{module}.ray_server:app"}
    bento = (peers, "-m", "bentoml", "serve", f"{module}.bento_server:Front")
    return [
        Contestant(PLAIN, (*fast, f"{module}.fastapi_server:plain")),
        Contestant(BY_HAND, (*fast, f"{module}.fastapi_server:batching"), True),
        Contestant(LITSERVE, (peers, "-m", f"{module}.litserve_server", str(PORT)), True),
        Contestant(BENTOML, (*bento, "--host", "127.0.0.1", "--port", str(PORT)), True),
        Contestant(RAY_BATCH, serving(folder, config([plain_ray])), True),
        Contestant(OURS, ours),
        Contestant(OURS_HAPROXY, ours, environment=haproxy),
        Contestant(OURS_LEAN, (python, "-m", "benchmarks.peers.lean", ours[-1])),
    ]


def our_config(threads: int | None = 1) -> dict[str, Any]:
    """``serve_config.yaml`` as it is, but for the port and, if told, the replica's threads."""
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
    (application,) = parsed["applications"]
    if threads is not None:
        application["args"]["pools"]["cpu"]["engine"] = {"threads": threads}
    return config([application])


def config(applications: list[dict[str, Any]]) -> dict[str, Any]:
    """A Serve config with the options of ``serve_config.yaml`` that concern a proxy."""
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": PORT, "request_timeout_s": 600},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": applications,
    }


def serving(folder: Path, parsed: dict[str, Any]) -> tuple[str, ...]:
    """The command that serves a config."""
    names = "-".join(application["name"] for application in parsed["applications"])
    path = folder / f"{names}.yaml"
    path.write_text(yaml.safe_dump(parsed), encoding="utf-8")
    serve = str(Path(sys.executable).with_name("serve"))
    return (serve, "run", "--address", "local", str(path))
