"""``python -m serve_app.access.new_key NAME``: draw an API key; what to put into the settings."""

from __future__ import annotations

import hashlib
import secrets
import sys


def main(names: list[str]) -> None:
    """Print a new key for each name, once, and the line that lets it in."""
    if not names:
        sys.exit("usage: python -m serve_app.access.new_key NAME...")
    for name in names:
        key = f"im-{secrets.token_urlsafe(32)}"
        print(f"{name}'s key, shown only now: {key}")
        print(f"  under keys:  {name}: {{sha256: {hashlib.sha256(key.encode()).hexdigest()}}}")


if __name__ == "__main__":
    main(sys.argv[1:])
