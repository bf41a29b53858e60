"""Artifacts in a local or mounted folder: one sub-folder each, made visible by renaming."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path

from compile.manifest import MANIFEST, ArtifactError, Manifest, check_files, parse, sha256
from compile.registry.base import Entry, Located, NotPublishedError, RegistryError

# Uploads under way; no artifact's tag starts so.
_INCOMING = ".incoming-"
STALE_S = 86_400.0


class FolderRegistry:
    """See ``Registry``. A tag is a sub-folder; its revision is the sha256 of its manifest.

    Args:
        root: made when the first artifact is published.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = str(root)

    def entries(self) -> list[Entry]:
        """See ``Registry``."""
        try:
            names = sorted(path.name for path in self.root.iterdir())
        except FileNotFoundError:
            raise RegistryError(f"registry: no folder at {self.source!r}") from None
        return [self._entry(name) for name in names if self._published(name)]

    def manifest(self, entry: Entry) -> Manifest:
        """See ``Registry``."""
        path = self.root / entry.tag / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ArtifactError(f"{entry.tag}: {MANIFEST}: {error}") from error
        return parse(text, entry.tag)

    def find(self, tag: str, revision: str | None = None) -> Entry:
        """See ``Registry``."""
        if not self._published(tag):
            raise NotPublishedError(f"registry {self.source}: no artifact {tag!r}")
        entry = self._entry(tag)
        if revision not in (None, entry.revision):
            raise NotPublishedError(
                f"registry {self.source}: {tag!r} is now {entry.revision}, not {revision}"
            )
        return entry

    def fetch(self, entry: Entry) -> Located:
        """See ``Registry``; the files stay where they are."""
        manifest = self.manifest(entry)
        folder = self.root / entry.tag
        check_files(folder, manifest)
        return Located(entry, manifest, folder)

    def publish(self, build: Path, manifest: Manifest) -> Entry:
        """See ``Registry``."""
        self.root.mkdir(parents=True, exist_ok=True)
        incoming = self.root / f"{_INCOMING}{uuid.uuid4().hex}"
        try:
            shutil.copytree(build, incoming)
            check_files(incoming, manifest)
            _flush(incoming)
            try:
                # Renaming onto a folder that is not empty fails: the first publisher wins.
                incoming.rename(self.root / manifest.tag)
            except OSError:
                if not self._published(manifest.tag):
                    raise
            else:
                _flush_folder(self.root)
        except shutil.Error as error:
            # copytree gathers the errors of all files; the first says what is wrong.
            raise OSError(f"copying to {self.source}: {error.args[0][0][2]}") from error
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return self._entry(manifest.tag)

    def remove(self, tag: str) -> None:
        """See ``Registry``; out of sight first, then deleted."""
        self.find(tag)
        hidden = self.root / f"{_INCOMING}{uuid.uuid4().hex}"
        (self.root / tag).rename(hidden)
        shutil.rmtree(hidden)

    def sweep(self) -> list[str]:
        """See ``Registry``."""
        gone = []
        for path in self.root.glob(f"{_INCOMING}*"):
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path)
                gone.append(path.name)
        return gone

    def _published(self, tag: str) -> bool:
        plain = tag == Path(tag).name and not tag.startswith(".")
        return plain and (self.root / tag / MANIFEST).is_file()

    def _entry(self, tag: str) -> Entry:
        return Entry(tag, f"sha256:{sha256(self.root / tag / MANIFEST)}")


def _flush(folder: Path) -> None:
    """To the disk, before the name that makes it visible."""
    for path in (*folder.rglob("*"), folder):
        _flush_folder(path)


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
