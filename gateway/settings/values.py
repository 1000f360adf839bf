"""The shapes of single values: hosts, URLs, networks, quotas. Each function returns the value or refuses it."""

import ipaddress
import re
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from gateway.quota import QUOTA_SHAPE, Quota
from gateway.settings.faults import refusal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_VISIBLE = re.compile(r"[!-~]+")
_PRINTABLE_ASCII = re.compile(r"[!-~]([ -~]*[!-~])?")
_REDIS_NODE = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?"
_REDIS_LOGIN = r"(?:[^@/?#\s]*@)?"
_REDIS_OPTIONS = r"(?:\?[^#\s]*)?"
_REDIS_SHAPES = (
    re.compile(r"embedded"),
    re.compile(rf"rediss?://{_REDIS_LOGIN}{_REDIS_NODE}(?:/[0-9]*)?{_REDIS_OPTIONS}"),
    re.compile(rf"unix://{_REDIS_LOGIN}/[^?#\s]+{_REDIS_OPTIONS}"),
    re.compile(rf"redis\+cluster://{_REDIS_LOGIN}{_REDIS_NODE}(?:,{_REDIS_NODE})*/?{_REDIS_OPTIONS}"),
    re.compile(
        rf"redis\+sentinel://{_REDIS_LOGIN}{_REDIS_NODE}(?:,{_REDIS_NODE})*/[A-Za-z0-9._-]+(?:/[0-9]+)?{_REDIS_OPTIONS}"
    ),
)


def address(host: str) -> Address | None:
    """Read an IP address, with or without the brackets of a URL; None if it is a name."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    ip = address(host)
    return host == "localhost" if ip is None else ip.is_loopback


def host(text: str) -> str:
    """Take an exact host: a name in ASCII or an IP address, without scheme, port or wildcard; in lower case."""
    lowered = text.lower()
    if address(lowered) is None and not _HOST.fullmatch(lowered):
        raise refusal("a host is a plain name or an IP address, without scheme, port, path or wildcard")
    return lowered.removeprefix("[").removesuffix("]")


def split_url(text: str) -> SplitResult:
    """Split an http(s) URL that has a host, a sane port, no login, no fragment and no blanks."""
    parts, port = None, None
    if _VISIBLE.fullmatch(text):
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            parts = None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise refusal("this is not an http or https URL with a host")
    if "@" in parts.netloc:
        raise refusal("a login in the URL (the part before @) is not allowed")
    if "#" in text:
        raise refusal("a fragment (the part after #) is not allowed")
    host(parts.hostname)
    return parts


def url_https_or_loopback(text: str) -> str:
    """Take an https URL; plain http only to loopback."""
    parts = split_url(text)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise refusal("plain http is allowed to loopback only, use https")
    return text


def origin(text: str) -> str:
    """Take scheme, host and port of an http(s) URL and nothing after them."""
    parts = split_url(text)
    if parts.path == "/":
        raise refusal("an origin has no trailing slash")
    if parts.path or "?" in text:
        raise refusal("an origin ends after host and port, without path or query")
    return text


def redis_url(value: SecretStr) -> SecretStr:
    """Take one of the forms of interface §2.1; the value stays secret, for it may hold a password."""
    text = value.get_secret_value()
    if not any(shape.fullmatch(text) for shape in _REDIS_SHAPES):
        raise refusal("this is none of the known forms")
    return value


def secret_text(value: SecretStr) -> SecretStr:
    """Take a secret without control characters and without blanks around it."""
    text = value.get_secret_value()
    if text != text.strip():
        raise refusal("blanks around the value are not allowed")
    if not text or not text.isprintable():
        raise refusal("control characters are not allowed")
    return value


def ascii_secret(value: SecretStr) -> SecretStr:
    """Take a secret of printable ASCII without blanks around it."""
    if not _PRINTABLE_ASCII.fullmatch(secret_text(value).get_secret_value()):
        raise refusal("only printable ASCII characters are allowed")
    return value


def network(text: object) -> object:
    """Take a network or one address, such as `10.0.0.0/8` or `2001:db8::1`; host bits must be zero."""
    if not isinstance(text, str):
        return text
    parsed: Network | None = None
    with suppress(ValueError):
        parsed = ipaddress.ip_network(text)
    if parsed is None:
        raise refusal("this is not a network: write an address and a prefix length, with zeros after the prefix")
    return parsed


def port(text: object) -> object:
    """Name the cause of a `tcp://…` port; anything else is left to the number that follows."""
    if isinstance(text, str) and text.startswith("tcp://"):
        raise refusal(
            "a tcp:// address is what Kubernetes puts here for a service of that name (service links);"
            " set enableServiceLinks: false in the pod, or rename the service"
        )
    return text


def quota(value: object) -> object:
    """Read `N/second`, `N/minute` or `N/hour` into a `Quota`."""
    if isinstance(value, Quota):
        return value
    parsed: Quota | None = None
    if isinstance(value, str):
        with suppress(ValueError):
            parsed = Quota.parse(value)
    if parsed is None:
        raise refusal(f"expected {QUOTA_SHAPE}")
    return parsed


def comma_separated(value: object) -> object:
    """Split a list as a variable writes it; blanks around items and empty items do not count."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value
