"""This service without Ray's dashboard, for what that saves; the argument is a Serve config."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import ray
import yaml
from ray import serve

from serve_app.app import build


def main() -> None:
    """Serve the config's only application until interrupted."""
    parsed = yaml.safe_load(Path(sys.argv[1]).read_text("utf-8"))
    (application,) = parsed["applications"]
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options=parsed["http_options"])
    serve.run(build(application["args"]), name=application["name"])
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        serve.shutdown()


if __name__ == "__main__":
    main()
