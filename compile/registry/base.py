"""Where artifacts are kept: one interface, two homes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compile.manifest import Manifest


class RegistryError(RuntimeError):
    """The registry cannot be used; the message names it and says why."""


class NotPublishedError(RegistryError):
    """No such artifact."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One published artifact.

    Attributes:
        tag: its name.
        revision: pins what the tag means now: a commit, or for a folder the manifest's sha256.
    """

    tag: str
    revision: str


@dataclass(frozen=True, slots=True)
class Located:
    """An artifact on this machine, every file checked."""

    entry: Entry
    manifest: Manifest
    folder: Path


class Registry(Protocol):
    """Whole artifacts only: what is being uploaded is in no list and cannot be resolved."""

    source: str

    def entries(self) -> list[Entry]:
        """Everything published, by tag.

        Raises:
            RegistryError: it cannot be reached or read.
        """
        ...

    def manifest(self, entry: Entry) -> Manifest:
        """What an artifact says of itself; fetches nothing else.

        Raises:
            ArtifactError: unreadable.
            RegistryError: cannot be reached.
        """
        ...

    def find(self, tag: str, revision: str | None = None) -> Entry:
        """What a tag means.

        Args:
            tag: name of an artifact.
            revision: what it must mean; a tag that was moved since is refused.

        Raises:
            NotPublishedError: no such tag, or it means something else.
            RegistryError: cannot be reached.
        """
        ...

    def fetch(self, entry: Entry) -> Located:
        """Bring an artifact's own files here, no others, and check every one.

        Raises:
            ArtifactError: a file is missing or changed.
            RegistryError: cannot be reached.
        """
        ...

    def publish(self, build: Path, manifest: Manifest) -> Entry:
        """Upload a build; it becomes visible whole or not at all.

        When another publisher was first with the same tag, theirs stays and is returned.

        Args:
            build: folder with the files and ``manifest.json``.
            manifest: of that folder.

        Raises:
            RegistryError: upload failed; nothing is visible, and the same call goes on from there.
            OSError: the disk is full.
        """
        ...

    def remove(self, tag: str) -> None:
        """Unpublish.

        Raises:
            NotPublishedError: no such tag.
        """
        ...

    def sweep(self) -> list[str]:
        """Remove what interrupted uploads left, if older than a day; returns their names."""
        ...
