"""One attempt to hand an event to a subscriber: a signed POST, to an address that was checked, once.

A name can lead to another address each time that it is looked up. So what counts is checked where the socket is made,
with the very address that it connects to: no look-up happens after that, and a connection is used for one attempt.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from gateway import __version__
from gateway.clock import Clock, utc
from gateway.config import Subscriber
from gateway.config.addresses import is_forbidden_address, is_private_address
from gateway.telemetry.spans import traceparent
from gateway.webhooks.schedule import retry_after
from gateway.webhooks.signing import signed_headers

TIMEOUT: Final = 10.0
"""Seconds from the look-up of the name to the answer's headers (interface §3.8)."""
GONE: Final = 410
"""The status of a subscriber that wants no more events, ever."""
_SUCCESSES: Final = range(200, 300)

AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
"""What `getaddrinfo` returns of one address."""

_HEADERS = {"content-type": "application/json", "user-agent": f"quantapay-gateway/{__version__}"}


class Outcome(StrEnum):
    """What became of an attempt; the names are those of the metric (`DELIVERY_OUTCOMES`)."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """Any answer but 2xx; redirects too, as nobody vouches for where they lead."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    """No answer, or none that is HTTP. The subscriber may have the event all the same."""
    FORBIDDEN = "forbidden"
    """The subscriber's name led to an address that nothing may be sent to, so nothing was."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an attempt, and why. Nothing here comes from the subscriber but the two numbers."""

    outcome: Outcome
    error: str = ""
    """A few words of ours, or the status; empty if the event was delivered."""
    status: int | None = None
    retry_after: float = 0.0
    """Seconds that the subscriber wants to be left alone."""


class ForbiddenAddress(OSError):
    """Nothing may be sent to the address that a name led to."""

    def __init__(self) -> None:
        super().__init__("forbidden address")


_FAILURES: Final[tuple[tuple[type[Exception], Outcome, str], ...]] = (
    # The most specific first: the first that fits is taken.
    (TimeoutError, Outcome.TIMEOUT, "timeout"),
    (ForbiddenAddress, Outcome.FORBIDDEN, "forbidden address"),
    (aiohttp.ClientConnectorDNSError, Outcome.UNREACHABLE, "name not found"),
    (aiohttp.ClientConnectorCertificateError, Outcome.UNREACHABLE, "certificate not valid"),
    (aiohttp.ClientConnectorSSLError, Outcome.UNREACHABLE, "no TLS connection"),
    (ConnectionRefusedError, Outcome.UNREACHABLE, "connection refused"),
    (aiohttp.ClientConnectorError, Outcome.UNREACHABLE, "no connection"),
    (aiohttp.ClientResponseError, Outcome.UNREACHABLE, "answer is not HTTP"),
    (aiohttp.InvalidURL, Outcome.FORBIDDEN, "forbidden address"),  # numbers that a resolver reads as an address
    (aiohttp.ClientError, Outcome.UNREACHABLE, "connection lost"),
    (OSError, Outcome.UNREACHABLE, "connection lost"),
    (RuntimeError, Outcome.UNREACHABLE, "no connection"),  # uvloop's, where asyncio raises an OSError
)
"""What can go wrong, and what that is called. The texts of the errors are left out: they quote what was sent to us."""
_FORESEEN: Final = tuple(kind for kind, _, _ in _FAILURES)


class Sender:
    """Sends events over connections of its own. For one event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        timeout: float = TIMEOUT,
        ssl_context: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Prepare; nothing is opened before the first attempt.

        `ssl_context` replaces the default one, which verifies certificates with the system's authorities and names;
        `resolver` the one that looks names up.
        """
        self._clock = clock
        self._timeout = timeout
        self._ssl: ssl.SSLContext | bool = True if ssl_context is None else ssl_context
        self._resolver = resolver
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        """By scheme: each has addresses of its own that it may connect to."""

    async def send(self, subscriber: Subscriber, message_id: str, message: str) -> Result:
        """Make one attempt to hand `message` to a subscriber, within the timeout."""
        signed = signed_headers(subscriber.secret, message_id=message_id, message=message, at=utc(self._clock.time()))
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(subscriber.url, {**_HEADERS, **_trace(), **signed}, message.encode())
        except _FORESEEN as error:
            return _failed(error)

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> Result:
        """Send, and hang up when the answer's headers are there: nobody reads its body, which may have no end."""
        response = await self._session_for(urlsplit(url).scheme).post(
            URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
        )
        response.close()
        if response.status in _SUCCESSES:
            return Result(Outcome.DELIVERED, status=response.status)
        return Result(
            Outcome.REFUSED,
            f"{GONE} gone" if response.status == GONE else str(response.status),
            status=response.status,
            retry_after=retry_after(response.headers.get("Retry-After"), now=self._clock.time()),
        )

    def _session_for(self, scheme: str) -> aiohttp.ClientSession:
        if scheme not in self._sessions:
            self._sessions[scheme] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # the lanes have theirs
                    force_close=True,
                    ssl=self._ssl,
                    resolver=self._resolver,
                    socket_factory=functools.partial(_open_socket, is_plain=scheme == "http"),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding"),
                # The time limit is ours. This one is for what cancels nothing: aiohappyeyeballs can swallow it.
                timeout=aiohttp.ClientTimeout(total=None, sock_read=self._timeout),
            )
        return self._sessions[scheme]


def _trace() -> dict[str, str]:
    trace = traceparent()
    return {} if trace is None else {"traceparent": trace}


def _open_socket(info: AddressInfo, *, is_plain: bool) -> socket.socket:
    """Make the socket for a connection to an address, which is the one that it will be connected to.

    Raises `ForbiddenAddress`; aiohttp tries the other addresses of the name then.
    """
    family, kind, protocol, _, (host, *_) = info
    ip = ipaddress.ip_address(host)
    if is_forbidden_address(ip) or (is_plain and not is_private_address(ip)):
        raise ForbiddenAddress
    return socket.socket(family, kind, protocol)


def _failed(error: Exception) -> Result:
    """Look an error up in the table."""
    causes: list[Exception] = [error]
    if isinstance(error.__cause__, OSError):  # of a connection that could not be made
        causes.append(error.__cause__)
    outcome, text = next(
        (outcome, text) for kind, outcome, text in _FAILURES if any(isinstance(cause, kind) for cause in causes)
    )
    return Result(outcome, text)
