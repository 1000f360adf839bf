"""One connection to QuantaPay: HTTP/1.1, a request and its answer at a time (RFC 9112).

httptools reads, as it does for uvicorn. Here is what a reader cannot know: whether anything was asked, how much of an
answer is kept, when one without a length is whole, and whether the connection may be used again.
"""

import asyncio
from http import HTTPStatus
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.errors import UpstreamInvalidResponse
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.reply import Reply

MOST_BYTES: Final = 4 * 1024 * 1024
"""The longest answer that is read. A page of 100 transactions is about 60 KiB, and at worst, full of texts that a payer
made up, 3 MiB."""
MOST_FRAMING: Final = 64 * 1024
"""Bytes of an answer that are not its body (heads, also those of interim answers, chunks' lengths, trailers), beyond as
many as its body has: chunks may be small."""

_SURELY_SENT: Final = 16 * 1024
"""Bytes that a socket's own buffer has room for."""


class _Unasked(Exception):
    """Stops the reader: what follows in the same piece is no answer to anything."""


class _TooLong(Exception):
    """Stops the reader: the answer is over `MOST_BYTES`."""


class Connection(asyncio.Protocol):
    """Sends a request when it is told to, and reads the answer. Whoever uses it does so alone."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        # What RFC 9112 lets a recipient bear with (§2.2, §5.2, §7.1): nobody can smuggle an answer in, as one that was
        # not asked for ends the connection.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._attempt = Attempt()
        self._answer: asyncio.Future[Reply] | None = None
        """Of the request that is under way; None while there is none."""
        self._sent_bytes = self._received_bytes = self._body_bytes = 0
        self._status: int | None = None
        """Of the answer that is coming in, once its head is there."""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._ends_with_connection = False
        """Whether the answer that is coming in has no length of its own."""
        self.is_open = False
        """Whether another request may be sent."""
        self.idle_since = 0.0
        """On the loop's clock, for whoever keeps it."""

    def ask(self, request: bytes, attempt: Attempt) -> asyncio.Future[Reply]:
        """Send a request, which is a whole one, and return what will have its answer.

        That fails with an `UpstreamInvalidResponse` for whatever is no answer, is cut off or too long: the request may
        have arrived. Who stops waiting has to `close` the connection.
        """
        self._attempt, self._answer = attempt, asyncio.get_running_loop().create_future()
        self._sent_bytes, self._received_bytes = len(request), 0
        self._begin()
        attempt.note_sent()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """End the connection now, and what is under way with it."""
        self.is_open = self._ends_with_connection = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio's own has less
        """Take requests from now on."""
        self._transport, self.is_open = transport, True

    def eof_received(self) -> None:
        """Take no more requests: the transport closes now, and throws away what is written meanwhile."""
        self.is_open = False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer that is under way; one without a length is whole if the server closed in good order."""
        self.is_open = False
        if self._ends_with_connection and exc is None:
            self._finish()
        else:
            self._fail("QuantaPay's answer was cut off.")

    def data_received(self, data: bytes) -> None:
        """Read what arrived. What nobody asked for must never be taken for the next request's answer."""
        if self._answer is None:
            self.close()
            return
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            is_too_long = self._body_bytes > MOST_BYTES
            self._fail("QuantaPay's answer is over 4 MiB." if is_too_long else "QuantaPay's answer is not HTTP.")
        else:
            if self._has_too_much_framing():
                self._fail("QuantaPay's answer has headers of over 64 KiB.")

    def on_message_begin(self) -> None:
        """Begin an answer, or the one that comes after an interim one."""
        if self._answer is None:
            raise _Unasked

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers come here too, and are not kept (RFC 9110 §6.5.1)."""
        if self._status is None:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note the status, and how the end of the body will be known (RFC 9112 §6.3)."""
        self._status = self._parser.get_status_code()
        if self._status >= HTTPStatus.OK:
            self._attempt.status = self._status
        self._ends_with_connection = self._headers.keys().isdisjoint(("content-length", "transfer-encoding"))

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self._body_bytes += len(part)
        if self._body_bytes > MOST_BYTES:
            raise _TooLong
        self._body.append(part)

    def on_message_complete(self) -> None:
        """Hand over the answer, unless it is an interim one (RFC 9110 §15.2)."""
        if self._parser.get_status_code() < HTTPStatus.OK:
            self._begin()
        elif not self._has_too_much_framing():  # else it fails once the piece is read
            self.is_open = self.is_open and self._parser.should_keep_alive() and self._is_sent()
            self._finish()

    def _begin(self) -> None:
        self._status, self._headers, self._ends_with_connection = None, {}, False
        self._body, self._body_bytes = [], 0

    def _has_too_much_framing(self) -> bool:
        return self._received_bytes > MOST_FRAMING + 2 * self._body_bytes

    def _is_sent(self) -> bool:
        """Tell whether all of the request surely left; TLS does not tell of what it has encrypted."""
        if self._transport.get_write_buffer_size():
            return False
        return self._sent_bytes <= _SURELY_SENT or not self._transport.get_extra_info("ssl_object")

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        body, self._body = self._body, []  # an idle connection holds no answer
        if answer is not None and not answer.done() and self._status is not None:
            answer.set_result(Reply(self._status, self._headers, b"".join(body)))
        if not self.is_open:
            self.close()

    def _fail(self, why: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(UpstreamInvalidResponse(why))
        self.close()
