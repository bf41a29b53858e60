"""The page's files, read once, under a name that changes with what they hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Stands in the page for the folder that its other files are asked for under.
_PLACEHOLDER = b"{{files}}"
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent.

    Attributes:
        data: its bytes.
        media_type: for ``Content-Type``.
        etag: of ``data``, in quotes.
    """

    data: bytes
    media_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class Files:
    """All files of the page.

    Attributes:
        version: hex digest of all of them: the same in every replica of one build.
        page: the HTML, which asks for the others under ``playground/<version>/``.
        others: by name.
    """

    version: str
    page: File
    others: dict[str, File]

    @classmethod
    def load(cls, folder: Path = _FOLDER) -> Files:
        """Read ``folder``; files of other types than the page's are passed over."""
        found = {
            path.name: path.read_bytes()
            for path in sorted(folder.iterdir())
            if path.suffix in _TYPES
        }
        whole = hashlib.sha256()
        for name, data in found.items():
            whole.update(f"{name}:{len(data)}\n".encode() + data)
        version = whole.hexdigest()[:_DIGITS]
        page = found.pop(_PAGE).replace(_PLACEHOLDER, f"playground/{version}".encode())
        return cls(version, _file(_PAGE, page), {name: _file(name, d) for name, d in found.items()})


def _file(name: str, data: bytes) -> File:
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return File(data, _TYPES[Path(name).suffix], etag)
