"""httpx over aiohttp's connections: httpx's API and errors, without the faults of its own pool.

httpcore's pool loses a place for every request that is cancelled while it waits (encode/httpcore#1093), and
aiohttp's own queue forgets to wake the next request when the one it woke is cancelled. So the queue here is a
plain semaphore, which forgets neither, and aiohttp only opens, keeps and reuses connections.

Nothing is ever sent twice, followed, remembered or decoded by this module.
"""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Final, cast

import aiohttp
import httpx
from yarl import URL

_ERRORS: Final[tuple[tuple[type[Exception], type[httpx.TransportError], str], ...]] = (
    # The most specific first: the first that fits is taken.
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout, "No connection in time"),
    (aiohttp.SocketTimeoutError, httpx.ReadTimeout, "No answer in time"),
    (aiohttp.ClientConnectorError, httpx.ConnectError, "No connection"),  # refused, DNS, TLS
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError, "Closed without a whole answer"),
    (aiohttp.ClientConnectionResetError, httpx.WriteError, "Lost while sending"),
    (aiohttp.ClientOSError, httpx.ReadError, "Lost while waiting for the answer"),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError, "The answer's body is broken or cut off"),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError, "The answer is not HTTP that can be read"),
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


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests over connections that aiohttp keeps. For one event loop.

    Obeys the request's `timeout` extension: `pool`, `connect` (name look-up and TLS included), `write` (for each
    part of the body) and `read` (between any two arrivals), in seconds, None for no limit. Raises
    `httpx.TransportError`s only; their texts hold nothing of the request or of the answer.
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
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send once and return when the answer's headers are there; its body is read from the stream."""
        if request.url.scheme not in {"http", "https"} or not request.url.host:
            raise httpx.UnsupportedProtocol("Neither http nor https, or no host")
        timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        await self._take_place(timeouts.get("pool"))
        try:
            response = await self._send(request, timeouts)
        except BaseException:  # cancellation too
            self._places.release()
            raise
        return httpx.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Body(response, on_close=self._places.release),
            extensions={
                "http_version": b"HTTP/1.0" if response.version == aiohttp.HttpVersion10 else b"HTTP/1.1",
                "reason_phrase": (response.reason or "").encode("utf-8", "surrogateescape"),
            },
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def _take_place(self, seconds: float | None) -> None:
        if seconds is None:
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("Every connection is busy") from None

    async def _send(self, request: httpx.Request, timeouts: dict[str, float | None]) -> aiohttp.ClientResponse:
        headers = _headers(request)
        seconds = timeouts.get("write")
        failure: httpx.TransportError
        try:
            async with nullcontext() if seconds is None else asyncio.timeout(None) as writing:
                return await self._open_session().request(
                    request.method,
                    _target(request.url),
                    headers=headers,
                    data=_parts(request, writing, seconds) if _has_body(request) else None,
                    allow_redirects=False,
                    timeout=_client_timeout(timeouts.get("connect"), timeouts.get("read")),
                )
        except TimeoutError:  # the clock of `_parts`; aiohttp's own timeouts are httpx's by now
            failure = httpx.WriteTimeout("The body was not taken in time")
        except _FOREIGN as error:
            failure = _translated(error)
        raise failure

    def _open_session(self) -> aiohttp.ClientSession:
        """Return the session, made at the first request because it belongs to the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive, ssl=self._ssl),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                middlewares=(_never_twice,),
            )
        return self._session


class _Body(httpx.AsyncByteStream):
    """The body of an answer as it arrives. Closing early closes the connection; there is nothing to wait for."""

    def __init__(self, response: aiohttp.ClientResponse, *, on_close: Callable[[], None]) -> None:
        self._response = response
        self._on_close = on_close
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.content.iter_any():
                yield part
        except _FOREIGN as error:
            failure = _translated(error)
        else:
            return
        raise failure

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._response.close()  # a body read to its end has already given its connection back
            self._on_close()


async def _never_twice(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Turn errors into httpx's inside aiohttp: after some of its own it sends a GET again, after ours never."""
    try:
        return await send(request)
    except _FOREIGN as error:
        failure = _translated(error)
    raise failure


async def _parts(
    request: httpx.Request, writing: asyncio.Timeout | None, seconds: float | None
) -> AsyncIterator[bytes]:
    """Yield the request's body and set the clock anew for each part; aiohttp has no write timeout of its own."""
    now = asyncio.get_running_loop().time
    async for part in cast("httpx.AsyncByteStream", request.stream):
        if writing is not None and seconds is not None:
            writing.reschedule(now() + seconds)
        yield part
    if writing is not None:
        writing.reschedule(None)


@lru_cache(maxsize=64)
def _target(url: httpx.URL) -> URL:
    """Return an address as aiohttp takes it; kept, as there are few and each takes 30 µs to make."""
    return URL(str(url.copy_with(userinfo=b"", fragment=None)), encoded=True)


@lru_cache(maxsize=64)
def _client_timeout(connect: float | None, read: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None,
        connect=_or_at_once(connect),
        sock_read=_or_at_once(read),
        ceil_threshold=math.inf,  # aiohttp rounds longer ones up to whole seconds
    )


def _headers(request: httpx.Request) -> list[tuple[str, str]]:
    """Return httpx's headers as they are; only the framing of a body without a length is aiohttp's to say."""
    try:
        return [
            (name.decode("ascii"), value.decode("utf-8"))
            for name, value in request.headers.raw
            if name.lower() != b"transfer-encoding"
        ]
    except UnicodeDecodeError:
        raise httpx.LocalProtocolError("A header is not UTF-8") from None


def _has_body(request: httpx.Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def _or_at_once(seconds: float | None) -> float | None:
    return None if seconds is None else max(seconds, _AT_ONCE)


def _translated(error: Exception) -> httpx.TransportError:
    """Look an error up in the table.

    Its text is left out, and whoever raises the result does so after the `except` block, so that the error is not
    its context either: aiohttp's errors quote what the server sent.
    """
    _, translation, text = next(row for row in _ERRORS if isinstance(error, row[0]))
    return translation(f"{text} ({type(error).__name__})")
