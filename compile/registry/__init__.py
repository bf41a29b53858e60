"""The registry of artifacts: publish whole ones, find them again, refuse broken ones."""

from __future__ import annotations

import re
from pathlib import Path

from compile.registry.base import Entry, Located, NotPublishedError, Registry, RegistryError

__all__ = ["Entry", "Located", "NotPublishedError", "Registry", "RegistryError", "open_registry"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def open_registry(source: str) -> Registry:
    """The registry at a folder (starting with ``.``, ``/`` or ``~``, or existing) or a Hub id.

    Raises:
        ValueError: neither.
    """
    path = Path(source).expanduser()
    if source.startswith((".", "/", "~")) or path.is_dir():
        from compile.registry.folder import FolderRegistry

        return FolderRegistry(path)
    if _HUB_ID.fullmatch(source):
        from compile.registry.hub import HubRegistry

        return HubRegistry(source)
    raise ValueError(f"registry: got {source!r}; a folder or a hub id (owner/name) needed")
