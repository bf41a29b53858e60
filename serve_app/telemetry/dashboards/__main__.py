"""``make dashboards``: Prometheus, and Grafana where installed, over a service on this machine.

Needs ``prometheus`` (Debian: apt-get install prometheus). Grafana is in neither Debian nor PyPI:
where ``grafana`` or ``grafana-server`` is on the path it is started with the dashboard in it;
otherwise import ``imagine.json`` into yours.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serve_app.telemetry.dashboards.grafana import FILE
from serve_app.telemetry.dashboards.local import (
    grafana_command,
    prometheus_command,
    write_grafana,
    write_prometheus,
)

_DISCOVERY = Path("/tmp/ray/prom_metrics_service_discovery.json")  # noqa: S108 - Ray's own place


def main() -> None:
    """Run until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.telemetry.dashboards")
    parser.add_argument("--discovery", type=Path, default=_DISCOVERY, help="Ray's target file")
    parser.add_argument("--prometheus-port", type=int, default=9090)
    parser.add_argument("--grafana-port", type=int, default=3000)
    options = parser.parse_args()
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        sys.exit("prometheus is not on the path: apt-get install prometheus")
    if not options.discovery.is_file():
        sys.exit(f"{options.discovery} is not there: start the service first (make serve)")
    with tempfile.TemporaryDirectory(prefix="imagine-dashboards-") as name:
        folder = Path(name)
        config = write_prometheus(folder, discovery=options.discovery)
        commands = [prometheus_command(prometheus, config, folder, options.prometheus_port)]
        print(f"Prometheus: http://127.0.0.1:{options.prometheus_port}/graph")
        grafana = shutil.which("grafana") or shutil.which("grafana-server")
        if grafana is not None:
            write_grafana(folder, options.prometheus_port)
            commands.append(grafana_command(grafana, folder, options.grafana_port))
            print(f"Grafana: http://127.0.0.1:{options.grafana_port}/d/imagine-serve")
        else:
            print(f"Grafana is not installed here: import {FILE} into yours")
        running = [subprocess.Popen(command) for command in commands]  # noqa: S603 - our own
        try:
            for process in running:
                process.wait()
        except KeyboardInterrupt:
            pass
        finally:
            for process in running:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
