"""Artifacts in a folder: whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from compile.manifest import MANIFEST, ArtifactError, Manifest
from compile.registry import NotPublishedError, RegistryError, open_registry
from compile.registry.folder import STALE_S, FolderRegistry
from tests.compile.builds import make_build

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    return FolderRegistry(tmp_path / "registry")


@pytest.fixture
def built(tmp_path: Path) -> tuple[Path, Manifest]:
    return tmp_path / "build", make_build(tmp_path / "build")


Built = tuple[Path, Manifest]


def test_what_is_published_is_found_and_fetched(registry: FolderRegistry, built: Built) -> None:
    folder, manifest = built
    entry = registry.publish(folder, manifest)
    assert entry.tag == manifest.tag
    assert registry.entries() == [entry]
    assert registry.find(manifest.tag) == entry
    assert registry.find(manifest.tag, entry.revision) == entry
    located = registry.fetch(entry)
    assert located.manifest == manifest
    name = "unet-2.pt2"
    assert (located.folder / name).read_bytes() == (folder / name).read_bytes()


def test_another_revision_than_the_pinned_one_is_refused(
    registry: FolderRegistry, built: Built
) -> None:
    entry = registry.publish(*built)
    with pytest.raises(NotPublishedError, match=f"is now {entry.revision}, not sha256:0000"):
        registry.find(entry.tag, "sha256:0000")


@pytest.mark.parametrize("tag", ["absent", "../registry", ".incoming-x", ""])
def test_what_is_not_published_is_not_found(
    tag: str, registry: FolderRegistry, built: Built
) -> None:
    registry.publish(*built)
    with pytest.raises(NotPublishedError, match="no artifact"):
        registry.find(tag)


def test_no_folder_is_named(registry: FolderRegistry) -> None:
    with pytest.raises(RegistryError, match="no folder at"):
        registry.entries()


def test_the_first_publisher_wins(registry: FolderRegistry, built: Built, tmp_path: Path) -> None:
    first = registry.publish(*built)
    other = make_build(tmp_path / "other")  # same fingerprint, other bytes
    assert registry.publish(tmp_path / "other", other) == first
    assert registry.fetch(first).manifest == built[1]
    assert [path.name for path in registry.root.iterdir()] == [first.tag]


def test_of_many_at_once_one_is_seen_and_it_is_whole(
    registry: FolderRegistry, tmp_path: Path
) -> None:
    builds = [(tmp_path / f"b{n}", make_build(tmp_path / f"b{n}", 400_000)) for n in range(6)]
    entries, faults, stop = list[str](), list[BaseException](), threading.Event()

    def publish(folder: Path, manifest: Manifest) -> None:
        entries.append(registry.publish(folder, manifest).revision)

    def watch() -> None:
        """Whatever is listed at any moment is whole."""
        while not stop.is_set():
            try:
                for entry in registry.entries() if registry.root.exists() else []:
                    registry.fetch(entry)
            except BaseException as error:
                faults.append(error)
                return

    watcher = threading.Thread(target=watch)
    publishers = [threading.Thread(target=publish, args=build) for build in builds]
    for thread in (watcher, *publishers):
        thread.start()
    for thread in publishers:
        thread.join()
    stop.set()
    watcher.join()
    assert faults == []
    assert len(entries) == 6
    assert len(set(entries)) == 1
    assert len(registry.entries()) == 1


def test_a_build_that_changed_since_is_not_published(
    registry: FolderRegistry, built: Built
) -> None:
    (built[0] / "unet-2.pt2").write_bytes(b"else")
    with pytest.raises(ArtifactError, match=r"unet-2\.pt2: 4 bytes"):
        registry.publish(*built)
    assert registry.entries() == []
    assert list(registry.root.iterdir()) == []


def test_a_tampered_artifact_is_refused(registry: FolderRegistry, built: Built) -> None:
    entry = registry.publish(*built)
    path = registry.root / entry.tag / "unet-2.pt2"
    path.write_bytes(os.urandom(path.stat().st_size))
    with pytest.raises(ArtifactError, match=r"unet-2\.pt2: contents changed"):
        registry.fetch(entry)


def test_an_upload_that_was_killed_is_not_seen_and_is_swept_later(
    registry: FolderRegistry, built: Built
) -> None:
    registry.publish(*built)
    half = registry.root / ".incoming-killed"
    shutil.copytree(built[0], half)
    (half / MANIFEST).unlink()
    assert len(registry.entries()) == 1
    assert registry.sweep() == []  # it may still be under way
    old = time.time() - STALE_S - 1
    os.utime(half, (old, old))
    assert registry.sweep() == [".incoming-killed"]
    assert not half.exists()


def test_what_is_removed_is_gone(registry: FolderRegistry, built: Built) -> None:
    entry = registry.publish(*built)
    registry.remove(entry.tag)
    assert list(registry.root.iterdir()) == []
    with pytest.raises(NotPublishedError, match="no artifact"):
        registry.remove(entry.tag)


FULL = """
import resource, sys
from pathlib import Path
from compile.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
sys.exit(main(["publish", sys.argv[1], sys.argv[2]]))
"""


def test_a_full_disk_leaves_nothing_half(
    registry: FolderRegistry, built: Built, tmp_path: Path
) -> None:
    """No file may grow beyond 20 kB, as on a disk with no more room."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, registry.source, str(built[0])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert os.strerror(errno.EFBIG) in done.stderr
    assert "Traceback" not in done.stderr
    assert registry.entries() == []
    assert list(registry.root.iterdir()) == []
    assert len(registry.publish(*built).tag) > 0  # and there is room again


def test_a_registry_is_a_folder_or_a_hub_id(tmp_path: Path) -> None:
    assert open_registry(str(tmp_path)).source == str(tmp_path)
    assert open_registry("./not-there-yet").source == "not-there-yet"
    assert open_registry("someone/artifacts").source == "someone/artifacts"
    with pytest.raises(ValueError, match="registry: got 'artifacts'; a folder or a hub id"):
        open_registry("artifacts")
