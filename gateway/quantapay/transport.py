"""The connections to QuantaPay: opened when they are needed, kept while they are used, and never used by two.

A request is sent once, over one connection, and nothing is ever sent twice, followed or remembered. The queue for a
place is a plain semaphore: it loses none when whoever waits is cancelled.
"""

import asyncio
import socket
import ssl
from collections import deque
from typing import Final

import httpx
from aiohappyeyeballs import start_connection

from gateway.errors import UpstreamUnavailable
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.connection import Connection
from gateway.quantapay.reply import Reply

MOST_CONNECTIONS: Final = 512
"""More than the guard ever lets through for a few functions at once, so that a slow one takes no other's place."""
RECONNECT_AFTER: Final = 5
"""Seconds for `Retry-After` when there is no connection."""

_NEXT_ADDRESS_AFTER: Final = 0.25
"""Seconds that one of several addresses has before the next is tried beside it (RFC 8305 §5)."""


class HttpTransport:
    """Sends requests to one server. For one event loop."""

    def __init__(
        self,
        url: str,
        *,
        connect_seconds: float,
        keep_seconds: float = 15,
        most_connections: int = MOST_CONNECTIONS,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; nothing is opened before the first request.

        `url` is http or https; its path does not matter. `connect_seconds` is what a connection may take to be made,
        name look-up and TLS included, `keep_seconds` how long an idle one is used again, `most_connections` the number
        of requests under way at once. `ssl_context` replaces the default one, which verifies certificates and names.
        """
        address = httpx.URL(url)
        self._host = address.raw_host.decode("ascii")
        self._port = address.port or {"http": 80, "https": 443}[address.scheme]
        self._ssl = (ssl_context or _verifying()) if address.scheme == "https" else None
        self._connect_seconds = connect_seconds
        self._keep_seconds = keep_seconds
        self._places = asyncio.Semaphore(most_connections)
        self._idle: deque[Connection] = deque()
        """The one that was used last is at the right."""
        self._busy: set[Connection] = set()
        self._is_closed = False

    async def exchange(self, request: bytes, attempt: Attempt) -> Reply:
        """Send a whole request, note in `attempt` how far it gets, and return its answer.

        Raises `UpstreamUnavailable` if it was surely not sent, and `UpstreamInvalidResponse` if the answer is none, is
        cut off or over 4 MiB. Their texts and contexts hold nothing of the request or of the answer.
        """
        async with self._places:
            connection = self._kept() or await self._connect()
            self._busy.add(connection)
            try:
                return await connection.ask(request, attempt)
            except BaseException:  # cancellation too
                connection.close()
                raise
            finally:
                self._busy.discard(connection)
                self._keep(connection)

    async def close(self) -> None:
        """Close every connection for good; what is under way fails."""
        self._is_closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # they are told of their end in the next turn of the loop

    def _kept(self) -> Connection | None:
        """Take the connection that was used last: it is the least likely to be closed just now by the server."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and not self._is_old(connection):
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        if connection.is_open:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        while self._idle and self._is_old(self._idle[0]):
            self._idle.popleft().close()

    def _is_old(self, connection: Connection) -> bool:
        return asyncio.get_running_loop().time() >= connection.idle_since + self._keep_seconds

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await self._open()
        except (OSError, ValueError, RuntimeError):
            # Refused, no such name, TLS, too slow; names that no resolver takes; uvloop's for some of the first.
            connection = None
        if connection is not None and self._is_closed:
            connection.close()
        if connection is None or not connection.is_open:  # the server may have closed it, or have spoken first
            raise UpstreamUnavailable(retry_after=RECONNECT_AFTER)
        return connection

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        connected = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = self._host if self._ssl else None
        _, connection = await loop.create_connection(Connection, sock=connected, ssl=self._ssl, server_hostname=name)
        return connection


def _verifying() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
