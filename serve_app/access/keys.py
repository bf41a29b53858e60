"""The API keys in force: from the settings and from a mounted file that may change."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from serve_app.access.settings import AccessSettings, CallLimits, KeyFile, KeySettings
from serve_app.validation import SettingsError, parse

log = logging.getLogger(__name__)

_LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was recognised: its name and what it may."""

    name: str
    limits: CallLimits


class KeyRing:
    """Recognises keys by their digest; the keys themselves are never kept.

    Args:
        settings: who may ask.
        clock: monotonic seconds.

    Raises:
        SettingsError: the file of keys cannot be read or is bad. Later that is logged, and the
            last good content stays in force.
    """

    def __init__(
        self, settings: AccessSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._file = Path(settings.keys_file) if settings.keys_file else None
        self._keys = _digests(settings.keys)
        self._seen: tuple[int, int, int] | None = None
        self._looked_at = clock()
        if self._file is not None:
            self._seen = _stamp(self._file)
            self._keys = self._read(self._file)

    def find(self, token: str) -> Key | None:
        """The key that ``token`` is; ``None`` for none."""
        self._refresh()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, key in self._keys:  # all of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                found = key
        return found

    def _refresh(self) -> None:
        if self._file is None or self._clock() - self._looked_at < _LOOK_S:
            return
        self._looked_at = self._clock()
        try:
            stamp = _stamp(self._file)
            if stamp == self._seen:
                return
            self._keys = self._read(self._file)
        except SettingsError as error:
            log.error("the last good keys stay in force: %s", error)
        else:
            self._seen = stamp

    def _read(self, path: Path) -> list[tuple[bytes, Key]]:
        what = f"access.keys_file {str(path)!r}"
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            # A parser's message may quote the file.
            raise SettingsError(f"{what}: cannot be read: {type(error).__name__}") from None
        content = parse(KeyFile, raw, what=what)
        both = sorted(set(content.keys) & set(self._settings.keys))
        if both:
            raise SettingsError(f"{what}: also in access.keys: {', '.join(both)}")
        return _digests({**self._settings.keys, **content.keys})


def _digests(keys: dict[str, KeySettings]) -> list[tuple[bytes, Key]]:
    return [(bytes.fromhex(key.sha256), Key(name, key)) for name, key in keys.items()]


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes with the file; a mounted secret is another file after each change."""
    try:
        status = path.stat()
    except OSError as error:
        raise SettingsError(
            f"access.keys_file {str(path)!r}: cannot be read: {type(error).__name__}"
        ) from None
    return status.st_mtime_ns, status.st_size, status.st_ino
