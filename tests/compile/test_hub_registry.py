"""Artifacts in a hub repository: the real client against a hub on loopback.

``test_hub_majors`` runs all of these again under huggingface_hub's other major.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

import compile.hub
from compile.manifest import MANIFEST, ArtifactError, Manifest
from compile.registry import NotPublishedError, RegistryError
from compile.registry.folder import STALE_S
from compile.registry.hub import HubRegistry
from compile.snapshot import SnapshotError, local_folder, take
from tests.compile.builds import make_build
from tests.hub_server import TOKEN, Fault, Hub, Repo, add_folder, running_hub

# huggingface_hub's way of calling its own HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
REPO = "someone/artifacts"
PT2 = "unet-2.pt2"
Built = tuple[Path, Manifest]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # The hub here has plain LFS; pauses between attempts are not what is tested.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(compile.hub, "_FIRST_PAUSE_S", 0.01)
    with running_hub() as hub:
        point_at(hub.url, monkeypatch)
        yield hub


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``HF_ENDPOINT`` does before huggingface_hub is imported."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    for module in (constants, huggingface_hub.file_download):  # the older one keeps a copy
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return tmp_path / "build", make_build(tmp_path / "build")


def connect(cache: Path, token: str = TOKEN) -> HubRegistry:
    """A client with a cache of its own."""
    return HubRegistry(REPO, token=token, cache=cache)


def test_what_is_published_is_found_and_fetched(hub: Hub, built: Built, tmp_path: Path) -> None:
    folder, manifest = built
    publisher = connect(tmp_path / "one")
    entry = publisher.publish(folder, manifest)
    assert entry.tag == manifest.tag
    assert publisher.entries() == [entry]
    assert hub.repos[REPO].private
    # Nothing of it is on the branch that everyone looks at, and the upload's own is gone.
    assert hub.repos[REPO].branches.keys() == {"main"}
    assert hub.repos[REPO].commits[hub.repos[REPO].branches["main"]].files.keys() == {
        ".gitattributes"
    }
    consumer = connect(tmp_path / "two")
    located = consumer.fetch(consumer.find(manifest.tag))
    assert located.manifest == manifest
    assert (located.folder / PT2).read_bytes() == (folder / PT2).read_bytes()


def test_only_the_files_needed_are_fetched_and_once(hub: Hub, built: Built, tmp_path: Path) -> None:
    entry = connect(tmp_path / "one").publish(*built)
    hub.repos[REPO].commits[entry.revision].files["README.md"] = b"# Others look at this"
    consumer = connect(tmp_path / "two")
    assert consumer.manifest(entry) == built[1]
    assert hub.fetched() == [MANIFEST]
    consumer.fetch(entry)
    assert hub.fetched() == ["configs/config.json", MANIFEST, PT2]
    hub.log.clear()
    consumer.fetch(entry)
    assert hub.log == []


def test_a_pinned_artifact_in_the_cache_needs_no_hub(
    hub: Hub, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = connect(tmp_path / "one").publish(*built)
    connect(tmp_path / "two").fetch(entry)
    point_at("http://127.0.0.1:9", monkeypatch)
    gone = connect(tmp_path / "two")
    assert gone.fetch(gone.find(entry.tag, entry.revision)).manifest == built[1]


def test_a_pinned_revision_stays_when_the_tag_moves(hub: Hub, built: Built, tmp_path: Path) -> None:
    entry = connect(tmp_path / "one").publish(*built)
    repo = hub.repos[REPO]
    files = dict(repo.commits[entry.revision].files) | {PT2: b"something else"}
    repo.tags[entry.tag] = repo.commit(files, "main")
    consumer = connect(tmp_path / "two")
    pinned = consumer.fetch(consumer.find(entry.tag, entry.revision))
    assert (pinned.folder / PT2).read_bytes() == (built[0] / PT2).read_bytes()
    with pytest.raises(ArtifactError, match=re.escape(f"{PT2}: 14 bytes, 50000 expected")):
        consumer.fetch(consumer.find(entry.tag))


def test_a_tag_that_names_another_artifact_is_refused(
    hub: Hub, built: Built, tmp_path: Path
) -> None:
    entry = connect(tmp_path / "one").publish(*built)
    hub.repos[REPO].tags["cpu-1x1"] = entry.revision
    consumer = connect(tmp_path / "two")
    with pytest.raises(ArtifactError, match=f"is that of {entry.tag}"):
        consumer.fetch(consumer.find("cpu-1x1"))


def test_a_file_spoilt_in_the_cache_is_fetched_once_more(
    hub: Hub, built: Built, tmp_path: Path
) -> None:
    consumer = connect(tmp_path / "one")
    entry = consumer.publish(*built)
    located = consumer.fetch(entry)
    blob = (located.folder / PT2).resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"\0" * 50_000)
    again = consumer.fetch(entry)
    assert (again.folder / PT2).read_bytes() == (built[0] / PT2).read_bytes()


def test_what_is_not_published_is_not_found(hub: Hub, built: Built, tmp_path: Path) -> None:
    consumer = connect(tmp_path / "one")
    with pytest.raises(NotPublishedError, match=f"registry {REPO}: listing {REPO}: HTTP 404"):
        consumer.find("cpu-64x64")
    entry = consumer.publish(*built)
    with pytest.raises(NotPublishedError, match="no artifact 'cpu-1x1'"):
        consumer.find("cpu-1x1")
    with pytest.raises(NotPublishedError, match=r"no artifact .* at sha256:0"):
        consumer.find(entry.tag, "sha256:0")


def test_a_private_repository_wants_a_token(hub: Hub, built: Built, tmp_path: Path) -> None:
    connect(tmp_path / "one").publish(*built)
    stranger = connect(tmp_path / "two", token="hf_wrong")
    with pytest.raises(RegistryError, match="HTTP 401: a token with access is needed") as caught:
        stranger.entries()
    assert "hf_wrong" not in str(caught.value)
    with pytest.raises(RegistryError, match="HTTP 401"):
        stranger.publish(*built)


def test_an_unreachable_hub_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    nowhere = connect(tmp_path)
    with pytest.raises(RegistryError, match=f"registry {REPO}: .* cannot be reached: "):
        nowhere.entries()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(r"POST /api/models/.*/preupload/", times=1),
        Fault(r"POST .*/info/lfs/objects/batch", times=1),
        Fault(r"PUT /objects/", times=1, status=500),
        Fault(r"POST /api/models/.*/commit/", times=1),
        Fault(r"POST /api/models/.*/commit/", times=1, status=None),
        Fault(r"POST /api/models/.*/tag/", times=1),
        Fault(r"POST /api/models/.*/tag/", times=1, status=None),
        Fault(r"POST /api/models/.*/branch/", times=1, status=429),
        Fault(r"DELETE /api/models/.*/branch/", times=1, status=None),
        Fault(r"GET /api/models/.*/tree/", times=2),
        Fault(r"GET /api/models/.*/refs", times=2),
        Fault(r"GET .*/resolve/", times=2, status=None),
        Fault(r"GET .*/resolve/.*/unet", times=1, status=500),
        Fault(r"HEAD .*/resolve/", times=1, status=502),
    ],
    ids=lambda fault: f"{fault.pattern}-{fault.status or 'cut'}",
)
def test_faults_that_pass_are_survived(
    fault: Fault, hub: Hub, built: Built, tmp_path: Path
) -> None:
    hub.faults.append(fault)
    entry = connect(tmp_path / "one").publish(*built)
    located = connect(tmp_path / "two").fetch(entry)
    assert (located.folder / PT2).read_bytes() == (built[0] / PT2).read_bytes()
    assert fault.times == 0


FULL = """
import resource, sys
from compile.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
sys.exit(main(["verify", *sys.argv[1:]]))
"""


def test_a_full_disk_is_told_and_leaves_nothing_half(
    hub: Hub, built: Built, tmp_path: Path
) -> None:
    """No file may grow beyond 20 kB, as on a disk with no more room; the graph has 50."""
    entry = connect(tmp_path / "one").publish(*built)
    home = tmp_path / "home"
    ours = {"HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url}
    done = subprocess.run(
        [sys.executable, "-c", FULL, REPO, entry.tag],
        cwd=ROOT,
        env=os.environ | ours | {"HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert os.strerror(errno.EFBIG) in done.stderr
    assert done.stderr.count("\n") == 1  # and no traceback
    # What is there is whole; what is not goes on where it stopped, with room again.
    cache = home / "hub"
    assert PT2 not in {path.name for path in cache.rglob("snapshots/*/*")}
    again = connect(cache).fetch(entry)
    assert (again.folder / PT2).read_bytes() == (built[0] / PT2).read_bytes()


def test_an_upload_that_breaks_off_is_not_seen_and_goes_on(
    hub: Hub, built: Built, tmp_path: Path
) -> None:
    publisher = connect(tmp_path / "one")
    hub.faults.append(Fault(r"POST /api/models/.*/commit/", times=1000))
    with pytest.raises(RegistryError, match=f"registry {REPO}: uploading to {REPO}: HTTP 503"):
        publisher.publish(*built)
    assert publisher.entries() == []
    hub.faults.clear()
    sent = len(hub.seen("^PUT "))
    assert sent == 2  # the graph and the manifest
    publisher.publish(*built)
    assert len(hub.seen("^PUT ")) == sent  # they are there already
    assert len(publisher.entries()) == 1


def test_half_an_upload_is_never_tagged(hub: Hub, built: Built, tmp_path: Path) -> None:
    """The hub says that all went well, and has lost a file."""
    publisher = connect(tmp_path / "one")
    repo = hub.repos[REPO] = Repo(private=True)
    repo.commit({}, "main")
    whole = repo.commit

    def lossy(files: dict[str, bytes], branch: str) -> str:
        return whole({name: data for name, data in files.items() if name != PT2}, branch)

    repo.commit = lossy  # type: ignore[method-assign]
    with pytest.raises(RegistryError, match=re.escape(f"{PT2} did not arrive whole")):
        publisher.publish(*built)
    assert publisher.entries() == []


def test_of_two_publishers_at_once_one_is_seen_and_it_is_whole(hub: Hub, tmp_path: Path) -> None:
    builds = [(tmp_path / f"b{n}", make_build(tmp_path / f"b{n}")) for n in range(3)]
    publishers = [connect(tmp_path / f"c{n}") for n in range(3)]
    entries = []

    def publish(number: int) -> None:
        entries.append(publishers[number].publish(*builds[number]))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries) == 3
    assert len(set(entries)) == 1
    located = connect(tmp_path / "reader").fetch(entries[0])
    assert located.manifest in [manifest for _, manifest in builds]
    assert hub.repos[REPO].branches.keys() == {"main"}


def test_what_is_removed_is_gone_and_leftovers_are_swept(
    hub: Hub, built: Built, tmp_path: Path
) -> None:
    registry = connect(tmp_path / "one")
    entry = registry.publish(*built)
    repo = hub.repos[REPO]
    repo.commit({"half": b"x"}, "build-new")
    old = repo.commit({"half": b"y"}, "build-old")
    repo.commits[old].made = time.time() - STALE_S - 5
    assert registry.sweep() == ["build-old"]
    assert repo.branches.keys() == {"main", "build-new"}
    hub.faults.append(Fault(r"DELETE .*/tag/", times=1, status=None))
    registry.remove(entry.tag)
    assert registry.entries() == []
    with pytest.raises(NotPublishedError, match="no artifact"):
        registry.remove(entry.tag)


def test_a_snapshot_is_of_one_commit_and_of_what_is_compiled(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    source = local_folder("embedded")
    assert source is not None
    for name in ("model_index.json", "unet/config.json", "vae/config.json", "tokenizer/vocab.json"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes((source / name).read_bytes())
    for name in ("unet/x.safetensors", "unet/x.fp16.safetensors", "unet/x.bin", "top.safetensors"):
        (model / name).write_bytes(b"weights")
    commit = add_folder(hub, "someone/model", model)
    hub.repos["someone/model"].tags["v1"] = commit
    hub.repos["someone/model"].commit({"model_index.json": b"{}"}, "main")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    taken = take("someone/model", "v1")
    assert (taken.model.source, taken.model.revision) == ("someone/model", commit)
    found = {str(p.relative_to(taken.folder)) for p in taken.folder.rglob("*") if p.is_file()}
    assert found == {
        "model_index.json",
        "unet/config.json",
        "unet/x.safetensors",
        "vae/config.json",
        "tokenizer/vocab.json",
    }
    with pytest.raises(SnapshotError, match=r"--model: fetching someone/absent: HTTP 40[14]"):
        take("someone/absent", "v1")
    with pytest.raises(SnapshotError, match="--revision: missing for the hub model"):
        take("someone/model", None)
