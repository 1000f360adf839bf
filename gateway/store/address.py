"""Where Redis is: the shapes of `GATEWAY_REDIS_URL` (interface §2.1), read without ever echoing them.

A URL holds a password, and the parsers of the standard library quote what they cannot read. So no error here has
the URL, a part of it, or an exception that does as its cause or context.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import SecretStr

SHAPES = (
    "redis://host:6379/0, rediss://host:6379/0, unix:///path/to/socket, redis+cluster://host:6379,host:6379 "
    "or redis+sentinel://host:26379,host:26379/service/0, with user:password@ before the first host if need be "
    "(and `/`, `?`, `#`, `@` and `%` in a password percent-encoded)"
)

_OPTIONS: Mapping[str, set[str]] = {
    "redis": {"db"},
    "rediss": {"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"},
    "unix": {"db", "password"},
    "redis+cluster": set(),
    "redis+sentinel": {"sentinel_username", "sentinel_password"},
}
"""The query parameters each scheme takes; an unknown one is refused, since a typing error would go unseen."""
_DEFAULT_PORTS = {"redis+sentinel": 26379}


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis URL in parts. Only what its `scheme` knows is filled in."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    """Host and port; several for `redis+cluster` and `redis+sentinel`."""
    path: str = ""
    """The socket of `unix`."""
    service: str = ""
    """The name that sentinels know the primary by."""
    db: int = 0
    username: str | None = None
    password: SecretStr | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Query parameters other than `db` and `password`."""

    @classmethod
    def parse(cls, url: SecretStr | str) -> Self:
        """Read a URL; raise `ValueError` that says the shapes and what is wrong, never the input."""
        parts = _split(url.get_secret_value() if isinstance(url, SecretStr) else url)
        if parts is None or parts.scheme not in _OPTIONS:
            raise _wrong("it has none of these schemes, or cannot be read")
        if parts.fragment:
            raise _wrong("it has a `#`")
        options = _options(parts)
        userinfo, _, hostnames = parts.netloc.rpartition("@")
        username, _, password = (unquote(text) for text in userinfo.partition(":"))
        password = options.pop("password", password)
        service, db = _place(parts)
        return cls(
            scheme=parts.scheme,
            hosts=_hosts(parts.scheme, hostnames),
            path=_socket(parts) if parts.scheme == "unix" else "",
            service=service,
            db=_number(options.pop("db", db)),
            username=username or None,
            password=SecretStr(password) if password else None,
            options=options,
        )


def _wrong(reason: str) -> ValueError:
    return ValueError(f"expected {SHAPES}; {reason}")


def _split(text: str) -> SplitResult | None:
    """Split a URL; the list of hosts is kept from `urlsplit`, which before Python 3.11.4 chokes on `a,[::1]`."""
    scheme, separator, rest = text.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    try:
        return urlsplit(f"{scheme}{separator}{rest.removeprefix(authority)}")._replace(netloc=authority)
    except ValueError:
        return None


def _options(parts: SplitResult) -> dict[str, str]:
    try:
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        options = None
    if options is None or options.keys() - _OPTIONS[parts.scheme]:
        allowed = ", ".join(sorted(_OPTIONS[parts.scheme])) or "none"
        raise _wrong(f"what follows `?` can only be name=value, and names for this scheme are: {allowed}")
    return options


def _hosts(scheme: str, text: str) -> tuple[tuple[str, int], ...]:
    if scheme == "unix":
        if text:
            raise _wrong("a unix URL has three slashes before its path")
        return ()
    hosts = tuple(_host(item, _DEFAULT_PORTS.get(scheme, 6379)) for item in text.split(","))
    if len(hosts) > 1 and scheme in {"redis", "rediss"}:
        raise _wrong("this scheme takes one host")
    return hosts


def _host(item: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{item}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise _wrong("a host or port is missing or wrong")
    return host, port or default_port


def _socket(parts: SplitResult) -> str:
    if not parts.path.startswith("/") or parts.path == "/":
        raise _wrong("the path of the socket is missing")
    return unquote(parts.path)


def _place(parts: SplitResult) -> tuple[str, str]:
    """Return the sentinel service and the database that a path names, as texts."""
    segments = parts.path.removeprefix("/").split("/")
    match parts.scheme, segments:
        case "unix", _:
            return "", "0"
        case "redis+sentinel", [service] if service:
            return unquote(service), "0"
        case "redis+sentinel", [service, db] if service:
            return unquote(service), db
        case "redis" | "rediss", [db]:
            return "", db or "0"
        case "redis+cluster", ["" | "0"]:
            return "", "0"
    raise _wrong("its path is not one that this scheme has")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise _wrong("the database is not a number")
    return int(text)
