"""The last good live settings, kept with the cluster so that they outlive an ingress replica."""

from __future__ import annotations

import json
from typing import Any


class LastGood:
    """One application's last good ``user_config``, in the cluster's own key-value store.

    Args:
        app_name: the Serve application.
    """

    def __init__(self, app_name: str) -> None:
        self._key = f"imagine-last-good:{app_name}".encode()

    def put(self, user_config: Any) -> None:
        """Keep ``user_config``."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key, json.dumps(user_config).encode(), overwrite=True)

    def get(self) -> Any:
        """What was kept last.

        Raises:
            LookupError: nothing was.
        """
        from ray.experimental.internal_kv import _internal_kv_get

        kept = _internal_kv_get(self._key)
        if kept is None:
            raise LookupError("no live settings have been good so far")
        return json.loads(kept)
