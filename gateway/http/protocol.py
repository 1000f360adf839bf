"""Bounds that uvicorn does not set: on a request's head, on its time, and on callers that take no answer."""

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 32 * 1024
REQUEST_SECONDS = 10.0
"""From a request's first byte, or a connection's start, to the last byte of its body (64 KiB at most)."""
STALL_SECONDS = 10.0
"""For how long a caller may take nothing of an answer that is ready for it."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/problem+json\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)


class _HeadWithBody:
    """A transport that holds an answer's head back for what follows in the same turn of the event loop.

    uvicorn writes head and body apart. Together they are one system call and one packet; the second was a
    fifteenth of what a cached read costs.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._is_begun = False
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Hold back what comes first, for no longer than this turn; write all else at once."""
        if not self._is_begun:
            self._is_begun, self._head = True, data
            self._loop.call_soon(self._flush)
        elif self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close once all is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None and not self._transport.is_closing():
            self._transport.write(head)


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol that gives up on heads over 32 KiB, and on requests slower than 10 s.

    The time counts even if the answer was sent before the body had come: whoever dribbles a body, with a key or
    without, holds no connection. A caller that takes nothing of its answer for 10 s is cut off: closing would wait,
    perhaps for ever, until it has taken the rest.
    """

    _head_bytes = 0
    _in_head = True
    _late_at: float | None = None
    """When the request that is coming in has taken too long, on the loop's clock; None while none is."""
    _timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start the time that the first request may take."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # tell of every answer that the caller's side has no room for
        self._start()
        self._watch_caller()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the timers with the connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what arrives while a head is incomplete, before any of it is kept."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES + len(data):
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Start the time of the next request on a connection that is reused."""
        self._start()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting bytes: a body has a bound of its own."""
        self._in_head = False
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.transport = cast("asyncio.Transport", _HeadWithBody(self.transport, self.loop))

    def on_message_complete(self) -> None:
        """Stop the time: the request is here."""
        self._late_at = None
        super().on_message_complete()

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

    def _start(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._late_at = self.loop.time() + REQUEST_SECONDS

    def _watch_caller(self) -> None:
        """Close the connection if a request is late, else look again when the next could be.

        One timer a connection: setting and clearing one for each request costs more than reading its headers.
        """
        now = self.loop.time()
        if self._late_at is not None and now >= self._late_at:
            self.transport.close()
            return
        self._timer = self.loop.call_at(self._late_at or now + REQUEST_SECONDS, self._watch_caller)
