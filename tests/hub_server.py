"""A Hugging Face hub on loopback: repositories with commits, branches, tags, LFS, and faults.

Speaks what both majors of huggingface_hub say for models (not Xet: the client is told to use plain
LFS). Faults are put on by tests: errors and cut connections, by method and path.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# Files of this size and more travel as LFS objects.
LFS_FROM = 1024
TOKEN = "hf_secret"


@dataclass
class Commit:
    """One commit: path -> contents."""

    files: dict[str, bytes]
    made: float


@dataclass
class Repo:
    """A model repository."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str) -> str:
        """A new commit with exactly these files, at the head of a branch."""
        names = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
        sha = hashlib.sha1(repr((names, len(self.commits))).encode()).hexdigest()
        self.commits[sha] = Commit(files, time.time())
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names."""
        if revision in self.commits:
            return revision
        return self.branches.get(revision) or self.tags.get(revision)


@dataclass
class Fault:
    """What happens to the next ``times`` requests that match.

    Attributes:
        pattern: of ``METHOD /path``.
        status: answered instead; ``None``: the connection is cut half-way through the answer.
    """

    pattern: str
    times: int
    status: int | None = 503
    after: int = 0


@dataclass
class Hub:
    """The server's state; see the module.

    Attributes:
        repos: by ``owner/name``.
        objects: LFS objects by sha256.
        faults: put on by tests.
        log: ``METHOD /path`` of every request.
        tokens: ``Authorization`` headers that came with those for files.
        url: the server's address.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def seen(self, pattern: str) -> list[str]:
        """Requests that match."""
        return [line for line in self.log if re.search(pattern, line)]

    def fetched(self) -> list[str]:
        """Names of the files whose contents were sent, each as often as it was."""
        return sorted(
            re.sub(r".*/resolve/[^/]+/", "", line) for line in self.seen("^GET .*/resolve/")
        )

    def fault(self, line: str) -> Fault | None:
        """The fault due for this request, if any."""
        with self.lock:
            for one in self.faults:
                if one.times and re.search(one.pattern, line):
                    if one.after:
                        one.after -= 1
                        continue
                    one.times -= 1
                    return one
        return None


class RefusalError(Exception):
    """An HTTP error with the hub's own code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    """One request; routes are methods by pattern."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        line = f"{self.command} {path}"
        self.cut = False
        with self.hub.lock:
            self.hub.log.append(line)
            if "/resolve/" in path:
                self.hub.tokens.add(self.headers.get("Authorization"))
        fault = self.hub.fault(line)
        if fault is not None and fault.status is not None:
            self._send(fault.status, b"a fault that passes")
            return
        self.cut = fault is not None
        try:
            for pattern, route in ROUTES:
                found = re.fullmatch(pattern, line)
                if found:
                    with self.hub.lock:
                        answer = route(self, body, **found.groupdict())
                    self._send(*answer)
                    return
            raise RefusalError(404, "RepoNotFound")
        except RefusalError as refusal:
            self._send(refusal.status, b"{}", {"X-Error-Code": refusal.code})

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            body = b""
        self.wfile.write(body[: len(body) // 2] if self.cut else body)
        if self.cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def repo(self, name: str) -> Repo:
        """The repository, if there is one and the caller may see it."""
        repo = self.hub.repos.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not allowed):
            # The hub does not tell strangers which private repositories there are.
            raise RefusalError(404 if allowed else 401, "RepoNotFound")
        return repo

    def commit(self, name: str, revision: str) -> tuple[str, Commit]:
        """A revision's commit."""
        repo = self.repo(name)
        sha = repo.find(unquote(revision))
        if sha is None:
            raise RefusalError(404, "RevisionNotFound")
        return sha, repo.commits[sha]


Answer = tuple[int, bytes, dict[str, str]]


def _json(data: Any, status: int = 200) -> Answer:
    return status, json.dumps(data).encode(), {"Content-Type": "application/json"}


def _create(handler: Handler, body: bytes) -> Answer:
    asked = json.loads(body)
    name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else ""
    name = name or asked["name"]
    if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
        raise RefusalError(401, "Unauthorized")
    if name in handler.hub.repos:
        return _json({"error": "exists", "url": f"{handler.hub.url}/{name}"}, 409)
    private = bool(asked.get("private")) or asked.get("visibility") == "private"
    repo = handler.hub.repos[name] = Repo(private=private)
    repo.commit({".gitattributes": b"* -text\n"}, "main")
    return _json({"url": f"{handler.hub.url}/{name}"})


def _info(handler: Handler, body: bytes, name: str, revision: str | None) -> Answer:
    sha, commit = handler.commit(name, revision or "main")
    siblings = [{"rfilename": path} for path in commit.files]
    return _json({"id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": []})


def _refs(handler: Handler, body: bytes, name: str) -> Answer:
    repo = handler.repo(name)

    def rows(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": ref, "ref": f"refs/{kind}/{ref}", "targetCommit": sha}
            for ref, sha in refs.items()
        ]

    return _json(
        {
            "branches": rows("heads", repo.branches),
            "tags": rows("tags", repo.tags),
            "converts": [],
        }
    )


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    entry["oid"] = hashlib.sha1(data).hexdigest()
    if len(data) >= LFS_FROM:
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
    return entry


def _tree(handler: Handler, body: bytes, name: str, revision: str) -> Answer:
    _, commit = handler.commit(name, revision)
    return _json([_entry(path, data) for path, data in commit.files.items()])


def _commits(handler: Handler, body: bytes, name: str, revision: str) -> Answer:
    sha, commit = handler.commit(name, revision)
    made = datetime.fromtimestamp(commit.made, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return _json([{"id": sha, "title": "", "message": "", "date": made, "authors": []}])


def _branch(handler: Handler, body: bytes, name: str, ref: str) -> Answer:
    repo = handler.repo(name)
    if handler.command == "DELETE":
        if repo.branches.pop(ref, None) is None:
            raise RefusalError(404, "RevisionNotFound")
        return _json({})
    if ref in repo.branches:
        return _json({"error": "exists"}, 409)
    asked = json.loads(body or b"{}")
    start = repo.find(asked.get("startingPoint") or "main")
    if start is None:
        raise RefusalError(404, "RevisionNotFound")
    repo.branches[ref] = start
    return _json({})


def _tag(handler: Handler, body: bytes, name: str, revision: str) -> Answer:
    repo = handler.repo(name)
    if handler.command == "DELETE":
        if repo.tags.pop(revision, None) is None:
            raise RefusalError(404, "RevisionNotFound")
        return _json({})
    tag = json.loads(body)["tag"]
    if tag in repo.tags:
        return _json({"error": "Tag already exists"}, 409)
    repo.tags[tag] = handler.commit(name, revision)[0]
    return _json({})


def _preupload(handler: Handler, body: bytes, name: str, revision: str) -> Answer:
    handler.commit(name, revision)
    return _json(
        {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LFS_FROM else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
        }
    )


def _batch(handler: Handler, body: bytes, name: str) -> Answer:
    """An object that is here already needs no upload: that is how an upload goes on."""
    handler.repo(name)
    objects = []
    for one in json.loads(body)["objects"]:
        answer = {"oid": one["oid"], "size": one["size"], "authenticated": True}
        if one["oid"] not in handler.hub.objects:
            href = f"{handler.hub.url}/objects/{one['oid']}"
            answer["actions"] = {"upload": {"href": href}}
        objects.append(answer)
    status, data, _ = _json({"transfer": "basic", "objects": objects})
    return status, data, {"Content-Type": "application/vnd.git-lfs+json"}


def _put(handler: Handler, body: bytes, oid: str) -> Answer:
    if hashlib.sha256(body).hexdigest() != oid:
        raise RefusalError(400, "BadObject")
    handler.hub.objects[oid] = body
    return _json({})


def _write(handler: Handler, body: bytes, name: str, revision: str) -> Answer:
    repo = handler.repo(name)
    if revision not in repo.branches:
        raise RefusalError(404, "RevisionNotFound")
    files = dict(repo.commits[repo.branches[revision]].files)
    for line in body.splitlines():
        step = json.loads(line)
        key, value = step["key"], step["value"]
        if key == "header" and value.get("parentCommit") not in (None, repo.branches[revision]):
            raise RefusalError(412, "PreconditionFailed")
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = handler.hub.objects[value["oid"]]
        elif key == "deletedFile":
            files.pop(value["path"], None)
    sha = repo.commit(files, revision)
    url = f"{handler.hub.url}/{name}/commit/{sha}"
    return _json({"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""})


def _resolve(handler: Handler, body: bytes, name: str, revision: str, path: str) -> Answer:
    sha, commit = handler.commit(name, revision)
    if path not in commit.files:
        raise RefusalError(404, "EntryNotFound")
    data = commit.files[path]
    etag = _entry(path, data).get("lfs", {}).get("oid") or hashlib.sha1(data).hexdigest()
    headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
    if wanted and handler.command == "GET":
        start = int(wanted.group(1))
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return 206, data[start:], headers
    return 200, data, headers


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_API = rf"/api/models/{_NAME}"
_REV = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (r"POST /api/repos/create", _create),
    (rf"GET {_API}/refs", _refs),
    (rf"GET {_API}/tree/{_REV}/?", _tree),
    (rf"GET {_API}/commits/{_REV}", _commits),
    (
        rf"GET {_API}(/revision/{_REV})?",
        lambda h, b, name, revision: _info(h, b, name, revision or "main"),
    ),
    (rf"(POST|DELETE) {_API}/branch/(?P<ref>[^/]+)", _branch),
    (rf"(POST|DELETE) {_API}/tag/{_REV}", _tag),
    (rf"POST {_API}/preupload/{_REV}", _preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _batch),
    (r"PUT /objects/(?P<oid>[0-9a-f]{64})", _put),
    (rf"POST {_API}/commit/{_REV}", _write),
    (rf"(GET|HEAD) /{_NAME}/resolve/{_REV}/(?P<path>.+)", _resolve),
]


@contextmanager
def running_hub(port: int = 0) -> Iterator[Hub]:
    """A hub, for the time of the block; on a free port if none is given."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def add_folder(hub: Hub, name: str, folder: Path) -> str:
    """A public repository with a folder's files; returns its commit."""
    repo = hub.repos[name] = Repo(private=False)
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return repo.commit(files, "main")
