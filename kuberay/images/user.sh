#!/usr/bin/env bash
# The user that the pods run as, with a home and a cache that are its own.
set -euo pipefail
id -u ray >/dev/null 2>&1 || useradd --create-home --uid 1000 --user-group --shell /bin/bash ray
install -d -o 1000 -g 1000 /app /cache /work
