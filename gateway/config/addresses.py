"""Which hosts payment events may go to (interface §3.8): no link-local or metadata; http only to near ones."""

import ipaddress

from gateway.settings.values import Address, address, is_loopback

_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
    )
)
"""Where clouds hand out credentials: AWS and most others (three), Google, Alibaba, Azure, Oracle."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")

_NEAR_NAMES = (".localhost", ".internal", ".local", ".lan", ".svc", ".home.arpa")


def is_forbidden_address(ip: Address) -> bool:
    """Tell whether nothing may ever be sent to an address: link-local, metadata, multicast, unspecified."""
    ip = _where_it_leads(ip)
    return ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA_ADDRESSES


def _where_it_leads(ip: Address) -> Address:
    """Return the address without its scope, or the IPv4 one in it (mapped, NAT64, 6to4, "compatible")."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    ip = ipaddress.IPv6Address(int(ip))
    within = ip.ipv4_mapped or ip.sixtofour
    if within is None and (ip in _NAT64 or (ip in _IPV4_COMPATIBLE and int(ip) > 1)):
        within = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return within or ip


def is_forbidden_host(host: str) -> bool:
    """Tell the same of a URL's host: names of metadata services, and numbers that resolvers read as addresses."""
    ip = address(host)
    if ip is not None:
        return is_forbidden_address(ip)
    last = host.rpartition(".")[2]
    return host in _METADATA_NAMES or last.isdigit() or last.startswith("0x")


def is_near(host: str) -> bool:
    """Tell whether plain http to a host is acceptable: loopback, a private address, a name of a private network.

    A name without a dot is a service of the same network, as in Compose or in one Kubernetes namespace. Where a
    name leads is only known when it is used, so whoever connects asks `is_private_address` again.
    """
    ip = address(host)
    if ip is not None:
        return is_private_address(ip)
    return is_loopback(host) or "." not in host or host.endswith(_NEAR_NAMES)


def is_private_address(ip: Address) -> bool:
    """Tell whether an address is of this machine or of a private network (RFC 1918, RFC 4193, RFC 6598)."""
    ip = _where_it_leads(ip)
    return ip.is_loopback or any(ip in network for network in _PRIVATE if network.version == ip.version)


_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
