"""Why a replica that starts is not ready yet: left for the ingress in the cluster's own store.

A replica that is being made answers nobody, and Serve says only that it is starting.
"""

from __future__ import annotations

import time

# A word that has not changed for so long is of a replica that is gone.
STALE_S = 120.0
MOST_CHARACTERS = 300


class Trouble:
    """One application's word on replicas that try to start. Every call asks Ray's GCS.

    Args:
        app_name: the Serve application.
    """

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        # Pool -> word and when this process first saw it: clocks of nodes may differ.
        self._seen: dict[str, tuple[bytes, float]] = {}

    def tell(self, pool: str, why: str, tried: int) -> None:
        """Leave word that a replica of ``pool`` has failed to start for the ``tried``-th time."""
        from ray.experimental.internal_kv import _internal_kv_put

        word = f"{tried} {one_line(why)}"
        _internal_kv_put(self._key(pool), word.encode(), overwrite=True)

    def over(self, pool: str) -> None:
        """Take the word down."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(self._key(pool))

    def of(self, pool: str) -> str:
        """Why the pool's replicas have failed to start of late; ``""``: nothing is known."""
        from ray.experimental.internal_kv import _internal_kv_get

        word, now = _internal_kv_get(self._key(pool)) or b"", time.monotonic()
        before, since = self._seen.get(pool, (b"", now))
        if word != before:
            since = now
        self._seen[pool] = (word, since)
        if not word or now - since > STALE_S:
            return ""
        return str(word.decode().partition(" ")[2])

    def _key(self, pool: str) -> bytes:
        return f"imagine-trouble:{self._app_name}:{pool}".encode()


def one_line(text: str) -> str:
    """The text on one line that is not too long."""
    flat = " ".join(text.split())
    if len(flat) <= MOST_CHARACTERS:
        return flat
    return flat[: MOST_CHARACTERS - 1] + "…"
