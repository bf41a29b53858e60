"""Who may ask and how much: ``access`` in the settings, and what a file of keys may hold."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serve_app.validation import UNSHOWN, Strict

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
MOST_KEYS = 1000


class CallLimits(Strict):
    """How many pictures' requests one caller may send; ``None``: no limit.

    All ingress replicas together: each grants its part, as they share no state.

    Attributes:
        requests_per_minute: lasting rate.
        burst: requests at once before the rate counts; ``None``: ten seconds' worth, at least 1.
        concurrent: requests under way at the same time.
    """

    requests_per_minute: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] | None = (
        None
    )
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    concurrent: Annotated[int, Field(ge=1, le=100_000)] | None = None


class KeySettings(CallLimits):
    """One API key.

    Attributes:
        sha256: SHA-256 of the key as 64 lower-case hex digits, so that no key stands in a file
            (``python -m serve_app.access.new_key NAME`` draws one).
    """

    sha256: str

    # Before the fields are looked at, so that no message shows what may be a key.
    @model_validator(mode="before")
    @classmethod
    def _shows_no_key(cls, value: Any) -> Any:
        allowed = ", ".join(cls.model_fields)
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict) or not set(value) <= set(cls.model_fields):
            raise _unshown(f"must be a mapping of {allowed}; never write a key itself here")
        digest = value.get("sha256")
        if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise _unshown(
                "sha256 must be the 64 lower-case hex digits of the key's SHA-256; never write a"
                " key itself here"
            )
        return value


def _names_of_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        if len(value) > MOST_KEYS:
            raise ValueError(f"{len(value)} keys; at most {MOST_KEYS} are allowed")
        for name in value:
            if not (isinstance(name, str) and _NAME.fullmatch(name)):
                raise _unshown(
                    "a key's name is 1 to 32 lower-case letters, digits, '_' or '-', and starts"
                    " with a letter"
                )
    return value


class KeyFile(Strict):
    """What stands in the file named by ``access.keys_file``.

    Attributes:
        keys: name -> key; the name stands for the key in logs.
    """

    keys: dict[str, KeySettings] = Field(default_factory=dict)

    _names = field_validator("keys", mode="before")(_names_of_keys)


class AuditSettings(Strict):
    """The line that is kept of each request, as JSON.

    Attributes:
        enabled: whether any is.
        prompt: whether it holds the prompt too.
        file: where lines are appended; ``None``: to the ingress replica's log in Ray's folder,
            which takes them at ``log_level: INFO``.
    """

    enabled: bool = True
    prompt: bool = False
    file: str | None = Field(default=None, min_length=1)


class AccessSettings(Strict):
    """Who may ask. Without keys and ``anonymous`` everybody may, as much as the pools take.

    Attributes:
        keys: API keys by name.
        keys_file: a YAML file with more under ``keys``, e.g. a mounted secret; read again within
            seconds of a change, and the last good content stays in force while it is bad.
        anonymous: limits of each client address without a key; ``None``: where there are keys,
            callers must have one.
        trusted_proxies: networks whose ``X-Forwarded-For`` is believed.
        cors_origins: origins whose pages may call the service, e.g. ``https://a.example``.
        audit: the line that is kept of each request.
    """

    keys: dict[str, KeySettings] = Field(default_factory=dict)
    keys_file: str | None = Field(default=None, min_length=1)
    anonymous: CallLimits | None = None
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    audit: AuditSettings = Field(default_factory=AuditSettings)

    _names = field_validator("keys", mode="before")(_names_of_keys)

    @model_validator(mode="before")
    @classmethod
    def _shows_no_key(cls, value: Any) -> Any:
        unknown = set(value) - set(cls.model_fields) if isinstance(value, dict) else ()
        if unknown:
            raise _unshown(f"unknown key (not shown); allowed: {', '.join(cls.model_fields)}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            ipaddress.ip_network(item)  # its own message says what is wrong
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if not _ORIGIN.fullmatch(item):
                raise ValueError(
                    f"{item!r} is not an origin: scheme and host, as https://a.example; '*' is"
                    " not allowed, name each"
                )
        return value

    @property
    def networks(self) -> tuple[Network, ...]:
        """``trusted_proxies`` as networks."""
        return tuple(map(ipaddress.ip_network, self.trusted_proxies))

    @property
    def asks(self) -> bool:
        """Whether callers must have a key."""
        return self.anonymous is None and bool(self.keys or self.keys_file)


def _unshown(message: str) -> PydanticCustomError:
    return PydanticCustomError(UNSHOWN, message)
