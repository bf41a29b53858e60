"""Where ingress replicas and the autoscaling policy leave word for each other.

The policy runs in Serve's controller, the ingress in replicas; Serve's own statistics travel from
pools only and take some ten seconds. The cluster's key-value store takes a millisecond.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

# An ingress replica whose report has not changed for so long is gone.
STALE_S = 15.0


class Board:
    """One application's board. Every call asks Ray's GCS, so it may block.

    Args:
        app_name: the Serve application.
    """

    def __init__(self, app_name: str) -> None:
        self._reports = f"imagine-demand:{app_name}:"
        # Report -> when this process first saw it: clocks of nodes may differ.
        self._seen: dict[bytes, tuple[bytes, float]] = {}
        self._decision = f"imagine-decision:{app_name}".encode()

    def report(self, who: str, report: Mapping[str, Any]) -> None:
        """Leave what ingress replica ``who`` sees of the demand."""
        self._put((self._reports + who).encode(), {"at": time.time(), **report})

    def reports(self) -> list[dict[str, Any]]:
        """What each living ingress replica last reported; those of dead ones are taken down."""
        from ray.experimental.internal_kv import (
            _internal_kv_del,
            _internal_kv_get,
            _internal_kv_list,
        )

        found, seen, now = [], self._seen, time.monotonic()
        for key in _internal_kv_list(self._reports.encode()):
            raw = _internal_kv_get(key) or b""
            if key not in seen or seen[key][0] != raw:
                seen[key] = (raw, now)
            if raw and now - seen[key][1] <= STALE_S:
                found.append(json.loads(raw))
            else:
                _internal_kv_del(key)
                del seen[key]
        return found

    def decide(self, decision: Mapping[str, Any]) -> None:
        """Leave what the policy decided."""
        self._put(self._decision, decision)

    def decision(self) -> dict[str, Any] | None:
        """What the policy decided last; ``None`` if nothing so far."""
        from ray.experimental.internal_kv import _internal_kv_get

        raw = _internal_kv_get(self._decision)
        return None if raw is None else json.loads(raw)

    def _put(self, key: bytes, value: Mapping[str, Any]) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(key, json.dumps(value).encode(), overwrite=True)
