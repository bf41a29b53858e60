"""Configuration of a Prometheus and a Grafana for one machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from serve_app.telemetry.dashboards.grafana import FILE, FOLDER

RULES = FOLDER / "rules.yml"


def write_prometheus(
    folder: Path,
    *,
    discovery: Path | None = None,
    targets: Sequence[str] = (),
    every_s: int = 5,
) -> Path:
    """Write ``prometheus.yml``; targets come from Ray's file, or are named."""
    jobs: dict[str, Any] = {"job_name": "ray"}
    if discovery is not None:
        jobs["file_sd_configs"] = [{"files": [str(discovery)]}]
    if targets:
        jobs["static_configs"] = [{"targets": list(targets)}]
    every = f"{every_s}s"
    config = {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": every,
        },
        "rule_files": [str(RULES)],
        "scrape_configs": [jobs],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def prometheus_command(program: str, config: Path, folder: Path, port: int) -> list[str]:
    """How to start it; its data go into ``folder``."""
    return [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]


def write_grafana(folder: Path, prometheus_port: int) -> None:
    """Provision the data source and the dashboard."""
    source = {
        "name": "Prometheus",
        "type": "prometheus",
        "url": f"http://127.0.0.1:{prometheus_port}",
        "isDefault": True,
    }
    shown = folder / "dashboards"
    provider = {"name": "imagine", "type": "file", "options": {"path": str(shown)}}
    for kind, content in (
        ("datasources", {"apiVersion": 1, "datasources": [source]}),
        ("dashboards", {"apiVersion": 1, "providers": [provider]}),
    ):
        path = folder / "provisioning" / kind / "imagine.yml"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    shown.mkdir()
    (shown / FILE.name).write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")


def grafana_command(program: str, folder: Path, port: int) -> list[str]:
    """How to start it: for this machine alone, read without a login."""
    server = [program, "server"] if Path(program).name == "grafana" else [program]
    settings = {
        "paths.data": folder / "grafana",
        "paths.provisioning": folder / "provisioning",
        "server.http_addr": "127.0.0.1",
        "server.http_port": port,
        "auth.anonymous.enabled": "true",
    }
    homepath = "/usr/share/grafana"
    return [*server, f"--homepath={homepath}", *(f"cfg:{k}={v}" for k, v in settings.items())]
