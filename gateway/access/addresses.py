"""Where a request comes from, through proxies that are trusted to say so (interface §2.1, §2.3)."""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address, IPv6Network
from itertools import islice

from gateway.settings.values import Address, Network, address

MOST_HOPS = 32
"""Entries of `X-Forwarded-For` that are looked at, from the right; no real request passes so many proxies."""
SITE_PREFIX = 64
"""Bits of an IPv6 address that name its network: whoever has one address there has them all."""
UNKNOWN = "unknown"

_WITH_PORT = re.compile(r"([0-9.]+|\[[^\]]+\]):[0-9]{1,5}")


def client_address(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """Return the client's address: the nearest one that is not a trusted proxy's; None if there is no peer.

    `peer` is the other end of the connection, `forwarded_for` the `X-Forwarded-For` headers in the order they came.
    Each proxy adds, at the right, the address that it was called from. So an entry is worth as much as the hop to
    its right: it counts if that is in `trusted`. An entry that cannot be read ends the search at that hop.

    IPv4 in the clothes of IPv6 (`::ffff:192.0.2.1`) comes out as IPv4, and zones (`%eth0`) are cut.
    """
    known = None if peer is None else _read(peer)
    for hop in islice(_from_the_nearest(forwarded_for), MOST_HOPS):
        if known is None or not any(known in network for network in trusted):
            break
        further = _read(hop)
        if further is None:
            break
        known = further
    return known


def subject(client: Address | None) -> str:
    """Return what limits count by: an IPv4 address, or the /64 of an IPv6 one; `unknown` for None.

    Written in the canonical form (RFC 5952), such as `192.0.2.1` and `2001:db8::/64`.
    """
    if client is None:
        return UNKNOWN
    return str(IPv6Network((client, SITE_PREFIX), strict=False) if isinstance(client, IPv6Address) else client)


def _from_the_nearest(lines: Sequence[str]) -> Iterator[str]:
    """Yield the entries of all lines, the last first; what lies beyond `MOST_HOPS` of a line is left in one piece."""
    for line in reversed(lines):
        yield from reversed(line.rsplit(",", MOST_HOPS))


def _read(hop: str) -> Address | None:
    """Read an address as proxies write it: alone, in brackets, with a port."""
    text = hop.strip(" \t")
    with_port = _WITH_PORT.fullmatch(text)
    found = address(with_port[1] if with_port else text)
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped or IPv6Address(int(found))
    return found
