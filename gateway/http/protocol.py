"""Bounds that uvicorn does not set: on a request's head, on its time, and on callers that take no answer."""

import asyncio

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.http.cycle import Cycle

MOST_HEAD_BYTES = 32 * 1024
"""Of a request line and headers with their line ends; blanks before a value are neither kept nor counted."""
MOST_WAITING = 100
"""Requests of one connection that wait for the answer to another; each takes 2 KB, and a piece may hold thousands."""
REQUEST_SECONDS = 10.0
"""From a request's first byte, or a connection's start, to the last byte of its body (64 KiB at most)."""
STALL_SECONDS = 10.0
"""For how long a caller may take nothing of an answer that is ready for it."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/problem+json\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_NOT_READ = "Invalid HTTP request received."


class _HeadTooLong(Exception):
    """Stops the parser: of what follows in the same piece it hands on nothing."""


class _TooManyWaiting(Exception):
    """Stops the parser: the last of those that wait ends the connection."""


class _TrailerEndsConnection(Exception):
    """Stops the parser, which would skip all that follows, and say nothing."""


class _Trailers(list[tuple[bytes, bytes]]):
    """Keeps none (RFC 9110 §6.5.1): there may be millions, and the application would take each for a header."""

    def append(self, trailer: tuple[bytes, bytes]) -> None:
        """Drop it."""


_TRAILERS = _Trailers()


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol that gives up on heads over 32 KiB, and on requests slower than 10 s.

    The time counts even if the answer was sent before the body had come: whoever dribbles a body, with a key or
    without, holds no connection. A caller that takes nothing of its answer for 10 s is cut off: closing would wait,
    perhaps for ever, until it has taken the rest.
    """

    _in_head = True
    _in_trailers = False
    """Whether a chunk began of which nothing came yet: the last one has nothing but trailers."""
    _is_large = False
    """Whether the piece that came last has room for a head that is too long."""
    _head_bytes = 0
    """What came of an unfinished head, or of trailers, after the piece that they began in."""
    _is_refused = False
    """Whether a request came that is too long, or cannot be read: nothing after it is read."""
    _answering: RequestResponseCycle | None = None
    """The request that is being answered, or was last; others may have come after it."""
    _late_at: float | None = None
    """When the request that is coming in has taken too long, on the loop's clock; None while none is."""
    _began_late_at = 0.0
    """The same of the request that began last, even once it is here."""
    _idle_at: float | None = None
    """When the connection, on which nothing is under way, has been kept for long enough; None while something is."""
    _timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start the time that the first request may take."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # tell of every answer that the caller's side has no room for
        self._start()
        self._watch_caller()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the timers with the connection, and tell the application: uvicorn tells of the last request only."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop_stall_timer()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Count what arrives of a head or of trailers, and keep no more of those that are too long without an end."""
        if self._is_refused:
            return
        self._is_large = len(data) > MOST_HEAD_BYTES
        if self._in_head or self._in_trailers:
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse()
                return
            self._head_bytes += len(data)
        try:
            self._parse(data)
        except (HttpParserError, HttpParserUpgrade):
            self.logger.warning(_NOT_READ)
            self._refuse()

    def on_message_begin(self) -> None:
        """Start the time of the next request on a connection that is reused."""
        self._start()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting bytes: a body has a bound of its own.

        A piece may hold more than this head, so the head itself is measured. That takes 1 µs, and is left out where it
        came in one piece within the bound, as nearly all do.
        """
        if self._is_large or self._head_bytes:
            self._head_bytes = self._measure_head()
            if self._head_bytes > MOST_HEAD_BYTES:
                raise _HeadTooLong
            self._head_bytes = 0
        if len(self.pipeline) >= MOST_WAITING:
            self.cycle.keep_alive = False  # its answer tells that what follows was not read (RFC 9112 §9.6)
            raise _TooManyWaiting
        super().on_headers_complete()
        self._in_head, self._idle_at = False, None
        self.headers = _TRAILERS  # what uvicorn would add to them from now on

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cycle.__class__ = Cycle  # uvicorn names its own where it makes it; none has sent anything yet
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_chunk_header(self) -> None:
        """Start counting bytes: trailers may follow, and httptools keeps one until its end."""
        self._in_trailers, self._head_bytes = True, 0

    def on_body(self, body: bytes) -> None:
        """Stop counting bytes: this is no trailer."""
        self._in_trailers, self._head_bytes = False, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the time: the request is here.

        httptools takes a `Connection: close` in trailers for one in the head. That has been handed on: the answer would
        keep the connection, on which nothing more is read.
        """
        if self._in_trailers and self.cycle.keep_alive and not self.parser.should_keep_alive():
            raise _TrailerEndsConnection
        self._in_trailers, self._late_at = False, None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the time for which the connection is kept; go on with a request that has come already."""
        if self.pipeline:
            self._excuse()
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self._is_refused:
            self._send_refusal()
        elif not self.transport.is_closing():
            self._excuse()
            self.flow.resume_reading()
            self._idle_at = self.loop.time() + self.timeout_keep_alive

    def pause_writing(self) -> None:
        """Watch whether the caller goes on to take its answer."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Stop watching: all of it is on its way."""
        self._stop_stall_timer()
        super().resume_writing()

    def _watch_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self._drop_if_stalled, unsent)

    def _drop_if_stalled(self, unsent_before: int) -> None:
        if self.transport.get_write_buffer_size() >= unsent_before:
            self.transport.abort()
        else:
            self._watch_reader()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _parse(self, data: bytes | memoryview) -> None:
        """Read a piece, in which a request that asks for an upgrade is read again as if it did not (RFC 9110 §7.8).

        To httptools, such a head is the end of HTTP: it skips the rest of the piece, and would take what comes after it
        for a request, though it may be the rest of a body. Raises `HttpParserUpgrade` for CONNECT, which is one without
        asking.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                data, late_at = memoryview(data)[upgrade.args[0] :], self._began_late_at
                head = self._head_without_upgrade()
                self.parser = HttpRequestParser(self)  # the other reads no more if this request is the last
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                self.parser.feed_data(head)
                if self._late_at is not None:  # its body is still to come, in the time that began with the first head
                    self._late_at = self._began_late_at = late_at
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b": ".join(header) for header in self.scope["headers"] if header[0] != b"upgrade"]
        return b"\r\n".join([line, *headers, b"\r\n"])

    def _should_upgrade(self) -> bool:
        """Have uvicorn pass over the head that will be read again."""
        return True

    def _measure_head(self) -> int:
        line = len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1\r\n")
        return line + sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers) + len(b"\r\n")

    def _refuse(self) -> None:
        """Refuse what is coming in, once the requests before it are answered: it would be taken for such an answer."""
        in_body = not self._in_head and self._late_at is not None
        self._is_refused, self._late_at = True, None
        if in_body and self.pipeline:
            self.pipeline.popleft()  # the last to come, which never will be whole
        elif in_body and self.cycle.response_started:
            self.transport.close()
        # uvicorn's types leave out that there is no cycle before the first request
        elif in_body or self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            self._send_refusal()

    def _send_refusal(self) -> None:
        """Answer 431 or 400, and end the connection."""
        if self.transport.is_closing():
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        else:
            self.send_400_response(_NOT_READ)

    def _start(self) -> None:
        self._in_head, self._head_bytes, self._idle_at = True, 0, None
        self._late_at = self._began_late_at = self.loop.time() + REQUEST_SECONDS

    def _excuse(self) -> None:
        """Begin the time of a request anew while nothing is read of it: it is the gateway that is late."""
        if self.flow.read_paused and self._late_at is not None:
            self._late_at = self.loop.time() + REQUEST_SECONDS

    def _watch_caller(self) -> None:
        """Close the connection if a request is late, or none has come for long, else look again when that could be.

        One timer a connection: setting and clearing one for each request costs more than reading its headers.
        """
        self._excuse()
        now = self.loop.time()
        ends = [end for end in (self._late_at, self._idle_at) if end is not None]
        if any(now >= end for end in ends):
            self.transport.close()
            return
        # What begins later ends no sooner.
        soonest = now + min(REQUEST_SECONDS, self.timeout_keep_alive)
        self._timer = self.loop.call_at(min([soonest, *ends]), self._watch_caller)
