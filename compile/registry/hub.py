"""Artifacts in a Hugging Face repository.

A build is uploaded to a branch of its own, checked there, and tagged last: the tag is what makes
it visible. (With hf-xet an upload may be several commits, so that a shared branch would show half
of one, and two publishers' files mixed.) The branch is named after the manifest's contents: the
same build goes on where it stopped, another publisher's never meets it.
"""

from __future__ import annotations

import logging
import re
import time
from datetime import datetime
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from compile.hub import HubError, ask
from compile.manifest import MANIFEST, ArtifactError, Manifest, check_files, parse, sha256
from compile.registry.base import Entry, Located, NotPublishedError, RegistryError
from compile.registry.folder import STALE_S

logger = logging.getLogger(__name__)

_BRANCH = "build-"
_ROOT = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubRegistry:
    """See ``Registry``. A tag's revision is the commit that it points at.

    The hub's address is huggingface_hub's own (``HF_ENDPOINT``): its older major fails where one
    is given by argument.

    Args:
        repo: ``owner/name`` of a model repository; made, private, when first published to.
        token: ``None`` for the one that huggingface_hub finds (``HF_TOKEN`` or its token file).
        cache: ``None`` for huggingface_hub's own cache folder.
    """

    def __init__(self, repo: str, token: str | None = None, cache: Path | None = None) -> None:
        self.source = repo
        self._api = HfApi(token=token, library_name="imagine-serve")
        self._cache = cache
        disable_progress_bars()

    def entries(self) -> list[Entry]:
        """See ``Registry``."""
        try:
            refs = ask(f"listing {self.source}", lambda: self._api.list_repo_refs(self.source))
        except HubError as error:
            raise _unusable(self.source, error) from error
        return sorted((Entry(tag.name, tag.target_commit) for tag in refs.tags), key=_by_tag)

    def manifest(self, entry: Entry) -> Manifest:
        """See ``Registry``."""
        folder = self._download(entry, [MANIFEST])
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except OSError:
            raise ArtifactError(f"{entry.tag}: {MANIFEST}: missing") from None
        return parse(text, entry.tag)

    def find(self, tag: str, revision: str | None = None) -> Entry:
        """See ``Registry``; a commit needs no question to the hub."""
        if revision is not None and _COMMIT.fullmatch(revision):
            return Entry(tag, revision)
        for entry in self.entries():
            if entry.tag == tag and revision in (None, entry.revision):
                return entry
        at = "" if revision is None else f" at {revision}"
        raise NotPublishedError(f"registry {self.source}: no artifact {tag!r}{at}")

    def fetch(self, entry: Entry) -> Located:
        """See ``Registry``; a file found changed in the cache is fetched once more."""
        manifest = self.manifest(entry)
        if manifest.tag != entry.tag:
            raise ArtifactError(f"{entry.tag}: {MANIFEST}: is that of {manifest.tag}")
        names = [MANIFEST, *(file.path for file in manifest.files)]
        folder = self._download(entry, names)
        try:
            check_files(folder, manifest)
        except ArtifactError:
            folder = self._download(entry, names, again=True)
            check_files(folder, manifest)
        return Located(entry, manifest, folder)

    def publish(self, build: Path, manifest: Manifest) -> Entry:
        """See ``Registry``."""
        check_files(build, manifest)
        branch = f"{_BRANCH}{sha256(build / MANIFEST)[:24]}"
        try:
            self._create(branch)
            ask(
                f"uploading to {self.source}",
                lambda: self._api.upload_folder(
                    repo_id=self.source,
                    folder_path=build,
                    revision=branch,
                    commit_message=f"Artifact {manifest.tag}",
                ),
            )
            self._check_uploaded(branch, manifest)
            entry = self._tag(branch, manifest.tag)
        except HubError as error:
            raise _unusable(self.source, error) from error
        self._forget(branch)
        return entry

    def remove(self, tag: str) -> None:
        """See ``Registry``."""
        self.find(tag)
        try:
            ask(
                f"removing {tag} from {self.source}",
                lambda: self._api.delete_tag(self.source, tag=tag),
            )
        except HubError as error:
            if error.status != 404:  # a repeated request finds it gone
                raise _unusable(self.source, error) from error

    def sweep(self) -> list[str]:
        """See ``Registry``."""
        what, gone = f"tidying {self.source}", []
        try:
            for branch in ask(what, lambda: self._api.list_repo_refs(self.source)).branches:
                name = branch.name
                if name.startswith(_BRANCH) and self._age_s(branch.target_commit) > STALE_S:
                    self._forget(name)
                    gone.append(name)
        except HubError as error:
            raise _unusable(self.source, error) from error
        return gone

    def _create(self, branch: str) -> None:
        what, api, repo = f"preparing {self.source}", self._api, self.source
        ask(what, lambda: api.create_repo(repo, private=True, exist_ok=True))
        ask(what, lambda: api.create_branch(repo, branch=branch, revision=_ROOT, exist_ok=True))

    def _forget(self, branch: str) -> None:
        """The tag keeps the commit: the branch has done its work, and ``sweep`` gets it if not."""
        try:
            ask(
                f"tidying {self.source}",
                lambda: self._api.delete_branch(self.source, branch=branch),
            )
        except HubError as error:
            logger.info("branch %s is left: %s", branch, error)

    def _check_uploaded(self, branch: str, manifest: Manifest) -> None:
        """What the hub says it holds is what was built, before anyone can see it."""
        listed = ask(
            f"checking {self.source}",
            lambda: list(
                self._api.list_repo_tree(self.source, recursive=True, revision=branch),
            ),
        )
        held = {file.path: file for file in listed if isinstance(file, RepoFile)}
        for file in manifest.files:
            found = held.get(file.path)
            lfs = None if found is None or found.lfs is None else found.lfs.sha256
            if found is None or found.size != file.size or lfs not in (None, file.sha256):
                raise RegistryError(
                    f"registry {self.source}: {file.path} did not arrive whole; nothing is"
                    " published; publish again"
                )
        if MANIFEST not in held:
            raise RegistryError(f"registry {self.source}: {MANIFEST} did not arrive")

    def _tag(self, branch: str, tag: str) -> Entry:
        """Make it visible; when someone was first, theirs stays."""
        try:
            ask(
                f"tagging in {self.source}",
                lambda: self._api.create_tag(self.source, tag=tag, revision=branch),
            )
        except HubError as error:
            if error.status != 409:
                raise
        return self.find(tag)

    def _download(self, entry: Entry, names: list[str], again: bool = False) -> Path:
        """Those files of the artifact, from the cache where it has them all."""

        def download(cached: bool) -> Path:
            return Path(
                self._api.snapshot_download(
                    self.source,
                    revision=entry.revision,
                    cache_dir=self._cache,
                    allow_patterns=names,
                    local_files_only=cached,
                    force_download=again,
                )
            )

        if not again:
            try:
                folder = ask(f"looking for {entry.tag}", lambda: download(True), attempts=1)
            except HubError:
                pass  # not in the cache
            else:
                if all((folder / name).is_file() for name in names):
                    return folder
        try:
            return ask(f"fetching {entry.tag} from {self.source}", lambda: download(False))
        except HubError as error:
            raise _unusable(self.source, error) from error

    def _age_s(self, commit: str) -> float:
        commits = ask(
            f"tidying {self.source}",
            lambda: self._api.list_repo_commits(self.source, revision=commit),
        )
        made: datetime = commits[0].created_at
        return time.time() - made.timestamp()


def _by_tag(entry: Entry) -> str:
    return entry.tag


def _unusable(source: str, error: HubError) -> RegistryError:
    if error.status == 404:
        return NotPublishedError(f"registry {source}: {error}")
    return RegistryError(f"registry {source}: {error}")
