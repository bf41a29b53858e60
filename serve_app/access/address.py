"""Where a request comes from, through the proxies that are trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.access.settings import Network

_UNKNOWN = "unknown"
_MOST_HOPS = 32


def client_address(scope: Scope, trusted: Collection[Network]) -> str:
    """The address of the client: the last hop that is not a trusted proxy.

    ``X-Forwarded-For`` is read from its end, where the nearest proxy wrote: what stands before
    an address that is not trusted may have been made up by it.
    """
    address = (scope.get("client") or (_UNKNOWN,))[0]
    if not _is_trusted(address, trusted):
        return address
    hops = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
    for hop in reversed(hops[-_MOST_HOPS:]):
        try:
            address = str(ipaddress.ip_address(hop.strip()))
        except ValueError:
            break  # also the empty one of no header at all
        if not _is_trusted(address, trusted):
            break
    return address


def caller_of(address: str) -> str:
    """What limits are counted by: an IPv6 client has a whole /64 of addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _is_trusted(address: str, trusted: Collection[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)
