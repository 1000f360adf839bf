"""httpx's requests over aiohttp's connections: httpx's API and errors, without the faults of its own pool.

httpcore's pool loses a place for every request that is cancelled while it waits (encode/httpcore#1093), and
aiohttp's own queue forgets to wake the next request when the one it woke is cancelled. So the queue here is a plain
semaphore, which forgets neither.

Of aiohttp come the connections, TLS and names included, and the parser of answers. Its client is left out: it costs
230 µs a request where the rest takes 60, and may send a GET twice. A request is one write here, head and body.

Nothing is ever sent twice, followed, remembered or decoded by this module.
"""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Final, cast

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, HttpVersion10, RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

_ERRORS: Final[tuple[tuple[type[Exception], type[httpx.TransportError], str], ...]] = (
    # The most specific first: the first that fits is taken.
    (aiohttp.SocketTimeoutError, httpx.ReadTimeout, "No answer in time"),
    (aiohttp.ClientConnectorError, httpx.ConnectError, "No connection"),  # refused, DNS, TLS
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError, "Closed without a whole answer"),
    (aiohttp.ClientOSError, httpx.ReadError, "Lost while waiting for the answer"),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError, "The answer's body is broken or cut off"),
    (HttpProcessingError, httpx.RemoteProtocolError, "The answer is not HTTP that can be read"),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol, "Not an address of a web server"),
    (aiohttp.ClientError, httpx.NetworkError, "The connection failed"),
    (OSError, httpx.NetworkError, "The connection failed"),
    (ValueError, httpx.NetworkError, "The connection failed"),
)
"""What aiohttp raises, what that is to httpx, and the text.

Callers read ConnectError, ConnectTimeout, PoolTimeout and UnsupportedProtocol as "surely not sent", so only what
happens before the first byte may become one of them.
"""

MOST_CONNECTIONS: Final = 512
"""More than the guard ever lets through for a few functions at once, so that a slow one takes no other's place."""

_FOREIGN: Final = tuple(foreign for foreign, _, _ in _ERRORS)
_AT_ONCE = 0.001
"""Seconds. aiohttp reads a timeout of 0 as none at all; to httpx it means at once."""
_LONGEST_LINE = 8190
"""Bytes of a header's name or value, or of the status line."""
_MOST_HEADERS = 128
_MOST_UNASKED = 8
"""Connections that one request takes in turn because on each the server spoke unasked, as one that is full may do."""
_SURELY_SENT = 16 * 1024
"""Bytes that a socket's own buffer has room for."""
_READ_AHEAD = 64 * 1024
"""Bytes of a body that are kept while nobody reads them; beyond, the server has to wait."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests over connections that aiohttp keeps. For one event loop.

    A request's body is read whole before anything is sent. Obeys the request's `timeout` extension: `pool`, `connect`
    (name look-up and TLS included) and `read` (between any two arrivals), in seconds, None for no limit; a body that
    the server does not take counts as `read`, too. Raises `httpx.TransportError`s only; their texts hold nothing of
    the request or of the answer.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = MOST_CONNECTIONS,
        keepalive_seconds: float = 15,
    ) -> None:
        """Prepare; nothing is opened before the first request.

        `ssl_context` replaces the default one, which verifies certificates and names. `max_connections` is the
        number of requests under way at once, `keepalive_seconds` how long an idle connection is kept.
        """
        self._ssl: ssl.SSLContext | bool = True if ssl_context is None else ssl_context
        self._places = asyncio.Semaphore(max_connections)
        self._keepalive = keepalive_seconds
        self._connector: aiohttp.TCPConnector | None = None
        self._destination = lru_cache(maxsize=64)(_destination)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send once and return when the answer's headers are there; its body is read from the stream."""
        if request.url.scheme not in {"http", "https"} or not request.url.host:
            raise httpx.UnsupportedProtocol("Neither http nor https, or no host")
        timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        await self._take_place(timeouts.get("pool"))
        try:
            connection = await self._connect(request.url, timeouts.get("connect"))
            try:
                message, body = await _exchange(connection, request, timeouts.get("read"))
            except BaseException:  # cancellation too
                connection.close()
                raise
        except BaseException:
            self._places.release()
            raise
        return httpx.Response(
            message.code,
            headers=list(message.raw_headers),
            stream=_Body(body, connection, on_close=self._places.release),
            extensions={
                "http_version": b"HTTP/1.0" if message.version == HttpVersion10 else b"HTTP/1.1",
                "reason_phrase": (message.reason or "").encode("utf-8", "surrogateescape"),
            },
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._connector is not None:
            await self._connector.close()

    async def _take_place(self, seconds: float | None) -> None:
        if seconds is None:
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("Every connection is busy") from None

    async def _connect(self, url: httpx.URL, seconds: float | None) -> Connection:
        """Take a kept connection or make one."""
        connector, timeout = self._open_connector(), _connect_timeout(seconds)
        failure: httpx.TransportError
        try:
            destination = self._destination(str(url))
            for _ in range(_MOST_UNASKED):
                connection = await connector.connect(destination, [], timeout)
                if connection.protocol is not None and not connection.protocol.should_close:
                    return connection
                connection.close()  # the server said something unasked: never take that for the next answer
            failure = httpx.ConnectError("The server speaks before it is asked")
        except TimeoutError:
            failure = httpx.ConnectTimeout("No connection in time")
        except _FOREIGN as error:
            failure = _translated(error)
        raise failure

    def _open_connector(self) -> aiohttp.TCPConnector:
        """Return the connector, made at the first request because it belongs to the running loop."""
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive, ssl=self._ssl)
        return self._connector


class _Body(httpx.AsyncByteStream):
    """The body of an answer as it arrives. Closing early closes the connection; there is nothing to wait for.

    Where a chunk is broken, and comes later than the head, aiohttp wakes nobody: the caller's own time ends that.
    """

    def __init__(self, content: StreamReader, connection: Connection, *, on_close: Callable[[], None]) -> None:
        self._content = content
        self._connection = connection
        self._on_close = on_close
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while part := await self._content.readany():
                yield part
        except _FOREIGN as error:
            failure = _translated(error)
        else:
            return
        raise failure

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.release()  # which closes it if there is more to come
            self._on_close()


async def _exchange(
    connection: Connection, request: httpx.Request, seconds: float | None
) -> tuple[RawResponseMessage, StreamReader]:
    """Send a request, and return the head of its answer and where its body comes."""
    protocol, transport = connection.protocol, connection.transport
    failure: httpx.TransportError
    try:
        body = b"".join([part async for part in cast("httpx.AsyncByteStream", request.stream)])
        content = _serialized(request, body)
        if protocol is None or transport is None or transport.is_closing():
            raise aiohttp.ServerDisconnectedError
        _expect_answer(protocol, to=request.method, seconds=seconds)
        transport.write(content)
        while True:
            message, answer = await protocol.read()
            if not _is_interim(message.code):
                break
            protocol.start_timeout()  # which this one has stopped
    except _FOREIGN as error:
        failure = _translated(error)
    else:
        if transport.get_write_buffer_size() or (
            len(content) > _SURELY_SENT and transport.get_extra_info("ssl_object")
        ):
            protocol.force_close()  # answered before it was all sent; TLS does not tell of what it has encrypted
        return message, answer
    raise failure


def _expect_answer(protocol: ResponseHandler, *, to: str, seconds: float | None) -> None:
    protocol.set_response_params(
        skip_payload=to == "HEAD",
        read_until_eof=True,
        auto_decompress=False,
        read_timeout=None if seconds is None else max(seconds, _AT_ONCE),
        read_bufsize=_READ_AHEAD,
        timeout_ceil_threshold=math.inf,  # aiohttp rounds longer ones up to whole seconds
        max_line_size=_LONGEST_LINE,
        max_field_size=_LONGEST_LINE,
        max_headers=_MOST_HEADERS,
    )
    protocol.start_timeout()


def _is_interim(status: int) -> bool:
    """Tell whether another answer follows (RFC 9110 §15.2); after 101 none does that is HTTP."""
    return httpx.codes.is_informational(status) and status != httpx.codes.SWITCHING_PROTOCOLS


def _serialized(request: httpx.Request, body: bytes) -> bytes:
    """Write a request with httpx's headers as they are (RFC 9112 §2.1); a body without a length is one chunk."""
    lines = [
        b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path),
        *[b"%b: %b" % header for header in request.headers.raw],
    ]
    head = b"\r\n".join(lines)
    if head.count(b"\r") != len(lines) - 1 or head.count(b"\n") != len(lines) - 1 or b"\0" in head:
        raise httpx.LocalProtocolError("A header, the method or the address has a line break")
    if b"\r\ntransfer-encoding:" in head.lower():
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return b"%b\r\n\r\n%b" % (head, body)


def _destination(url: str) -> aiohttp.ClientRequest:
    """Return an address as aiohttp's connector takes it; kept, as there are few and each takes 100 µs to make."""
    return aiohttp.ClientRequest("GET", URL(url, encoded=True).origin())


@lru_cache(maxsize=64)
def _connect_timeout(seconds: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None, connect=None if seconds is None else max(seconds, _AT_ONCE), ceil_threshold=math.inf
    )


def _translated(error: Exception) -> httpx.TransportError:
    """Look an error up in the table.

    Its text is left out, and whoever raises the result does so after the `except` block, so that the error is not
    its context either: aiohttp's errors quote what the server sent.
    """
    _, translation, text = next(row for row in _ERRORS if isinstance(error, row[0]))
    return translation(f"{text} ({type(error).__name__})")
