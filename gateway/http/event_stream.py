"""Server-sent events (WHATWG HTML §9.2) as an ASGI response that leaves nothing behind, however it ends."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.clock import Clock
from gateway.tasks import end

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = 15.0
"""Seconds of silence after which a comment shows readers, and proxies between, that the stream lives."""
MOST_SECONDS = 1800.0
"""How long a stream may last: whoever still reads connects again, perhaps to another replica."""
STALL = 10.0
"""Seconds within which a reader must take what it is sent."""
RETRY_MS = (1000, 5000)
"""After how many milliseconds to connect again: chosen between the two, so that not all come back at once."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second one is for nginx
_COMMENT = b":\n\n"
_LINE_END = re.compile(r"\r\n|\n|\r")
"""What ends a line of an event stream; `str.splitlines` knows more."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. Raises `ValueError` for a name or an id that a stream cannot carry."""

    name: str
    """What listeners subscribe to."""
    id: str
    """What comes back as `Last-Event-ID`."""
    data: str
    """Any text; its line ends arrive as line feeds."""

    def __post_init__(self) -> None:
        if _LINE_END.search(self.name) or _LINE_END.search(self.id):
            raise ValueError("an event's name and id are one line each")
        if "\0" in self.id:
            raise ValueError("readers ignore an id with a NUL")

    def encode(self) -> bytes:
        """Return the event as it is sent, with the blank line that ends it."""
        lines = [f"event: {self.name}", f"id: {self.id}", *(f"data: {line}" for line in _LINE_END.split(self.data))]
        return ("\n".join(lines) + "\n\n").encode()


class EventStream(Response):
    """Sends events as they come; ends with the iterator, after `most_seconds`, and when the gateway drains.

    In the last two cases `retry:` tells the reader when to come back. A reader that hangs up ends it at once. One
    that does not take what is sent within `stall` seconds finds the answer cut off.

    However it ends, also by an exception of the iterator's or cancelled by the server, the iterator is closed and
    then `on_close` called, once. Each step of the iterator may run in a task of its own.
    """

    def __init__(
        self,
        events: AsyncIterator[Event],
        *,
        clock: Clock,
        draining: asyncio.Event,
        heartbeat: float = HEARTBEAT,
        most_seconds: float = MOST_SECONDS,
        stall: float = STALL,
        on_close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(headers=_HEADERS, media_type=MEDIA_TYPE)
        del self.headers["Content-Length"]  # of an empty body
        self._events = events
        self._clock = clock
        self._draining = draining
        self._heartbeat = heartbeat
        self._most_seconds = most_seconds
        self._stall = stall
        self._on_close = on_close
        self._next: asyncio.Task[Event | None] | None = None

    @staticmethod
    def headers_only() -> Response:
        """Return what answers HEAD: the headers of a stream, and nothing that would have to be closed."""
        answer = Response(headers=_HEADERS, media_type=MEDIA_TYPE)
        del answer.headers["Content-Length"]
        return answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; return when it is over. What the iterator raises propagates."""
        with suppress(ClientDisconnect):
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._on_close)
                stack.push_async_callback(self._close_events)
                hung_up = asyncio.create_task(_hang_up(receive))
                stack.push_async_callback(end, hung_up)
                draining = asyncio.create_task(self._draining.wait())
                stack.push_async_callback(end, draining)
                await self._stream(send, hung_up, draining)

    async def _stream(self, send: Send, hung_up: asyncio.Task[None], draining: asyncio.Task[bool]) -> None:
        """Send until there is a reason to end; raise `ClientDisconnect` if nobody takes it."""
        until = self._clock.monotonic() + self._most_seconds
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while True:
            left = until - self._clock.monotonic()
            if self._draining.is_set() or left <= 0:
                await self._write(send, self._come_back(), more=False)
                return
            self._next = self._next or asyncio.create_task(self._take())
            await asyncio.wait(
                [self._next, hung_up, draining],
                timeout=min(self._heartbeat, left),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if hung_up.done():
                return
            if self._next.done():
                event, self._next = self._next.result(), None
                if event is None:
                    await self._write(send, b"", more=False)
                    return
                await self._write(send, event.encode())
            elif not draining.done():
                await self._write(send, _COMMENT)

    async def _take(self) -> Event | None:
        """Return the next event, None after the last."""
        return await anext(self._events, None)

    async def _write(self, send: Send, body: bytes, *, more: bool = True) -> None:
        await self._send(send, {"type": "http.response.body", "body": body, "more_body": more})

    async def _send(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._stall):
                await send(message)
        except OSError:  # includes the TimeoutError of our own patience
            raise ClientDisconnect from None

    def _come_back(self) -> bytes:
        soonest, latest = RETRY_MS
        return f"retry: {soonest + int(self._clock.random() * (latest - soonest))}\n\n".encode()

    async def _close_events(self) -> None:
        await end(self._next)
        if isinstance(self._events, AsyncGenerator):
            await self._events.aclose()


async def _hang_up(receive: Receive) -> None:
    """Return when the reader has gone; a body that it may send is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass
