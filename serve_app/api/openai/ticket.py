"""By what a client's call is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from serve_app.api.caller import caller_key, checked_caller
from serve_app.api.errors import bad_value
from serve_app.api.fields import MAX_SEED

KEY_HEADER = "Idempotency-Key"
# The official clients number their attempts, from 0, and send no key unless they are given one.
ATTEMPT_HEADER = "X-Stainless-Retry-Count"
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Ticket:
    """By what a call is known again.

    Attributes:
        caller: who calls.
        name: what the calls of ``caller`` that may be the same have in common.
        digest: of what is asked.
        attempt: 0 for the first; ``None`` where the client names its calls by a key.
    """

    caller: str
    name: str
    digest: str
    attempt: int | None

    @classmethod
    def of(cls, request: Request, asked: Mapping[str, Any]) -> Ticket | None:
        """The ticket of a call; ``None`` for a client that does not number its attempts.

        From here on it is for the call's ``Once`` to know what became of the attempt.

        Raises:
            ApiError: 400 for a key that is empty or too long.
        """
        digest, caller = _digest(request.url.path, asked), caller_of_attempt(request)
        key = request.headers.get(KEY_HEADER)
        if key is not None:
            if not 0 < len(key) <= _LONGEST_KEY:
                raise bad_value(
                    KEY_HEADER,
                    f"{KEY_HEADER}: got {len(key)} characters; allowed: 1 to {_LONGEST_KEY}",
                )
            return cls(caller, f"key {key}", digest, None)
        attempt = attempt_of(request.headers)
        if attempt is None:
            return None
        request.state.ticketed = True
        return cls(caller, "asked", digest, attempt)

    @property
    def seed(self) -> int | None:
        """What is drawn for a call named by a key: the same on every ingress replica."""
        if self.attempt is not None:
            return None
        drawn = hashlib.sha256(f"{self.caller}\n{self.name}\n{self.digest}".encode())
        return int.from_bytes(drawn.digest()[:8]) % (MAX_SEED + 1)

    @property
    def kind(self) -> tuple[str, str, str]:
        """What the calls that may be the same have in common."""
        return (self.caller, self.name, "" if self.attempt is None else self.digest)


def attempt_of(headers: Mapping[str, str]) -> int | None:
    """The number of an attempt, from 0; ``None`` where there is none that makes sense."""
    attempt = headers.get(ATTEMPT_HEADER, "")
    if not (attempt.isascii() and attempt.isdigit() and len(attempt) < 4):
        return None
    return int(attempt)


def caller_of_attempt(request: Request) -> str:
    """Who calls; what is sent as a key tells callers apart even where it is not checked."""
    return f"{checked_caller(request)} {caller_key(request)}"


def _digest(path: str, asked: Mapping[str, Any]) -> str:
    found = hashlib.sha256(path.encode())
    for name, value in sorted(asked.items()):
        data = (
            value if isinstance(value, bytes) else repr(value).encode("utf-8", "backslashreplace")
        )
        found.update(f"{name} {type(value).__name__} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()
