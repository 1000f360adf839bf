"""Which addresses may be shown to a payer as the page to pay on."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from gateway.errors import UpstreamInvalidResponse

_LONGEST_URL = 4096


def is_loopback(host: str | None) -> bool:
    """Tell whether a host name or address can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class PaymentUrls:
    """Accepts only `https` pages on exact, configured hosts (interface §2.1, contract §10).

    Plain `http`, and a port, pass on loopback alone, and only while QuantaPay itself is a simulator on loopback.
    """

    def __init__(self, hosts: Iterable[str], *, upstream_on_loopback: bool) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._upstream_on_loopback = upstream_on_loopback

    def check(self, url: str) -> None:
        """Raise `UpstreamInvalidResponse` unless a payer may be sent to `url`."""
        if not self._may_be_shown(url):
            raise UpstreamInvalidResponse("QuantaPay's answer names a payment page that may not be shown.")

    def _may_be_shown(self, url: str) -> bool:
        # Browsers drop control characters and read a backslash as a slash; what they would repair, we refuse.
        if len(url) > _LONGEST_URL or not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
            return False
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            return False
        if host not in self._hosts or "@" in parts.netloc:
            return False
        if self._upstream_on_loopback and is_loopback(host):
            return parts.scheme in ("http", "https")
        return parts.scheme == "https" and port in (None, 443)
