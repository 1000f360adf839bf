"""One client connection through a chaos proxy, and the connection to the target that goes with it."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote, urlsplit

from tests.plugins.chaos_faults import Counters, Fault, Kind, Mischief

_CHUNK = 64 * 1024
_PIECES_PER_SECOND = 50
"""How often a dribble drops, at most."""
_TICK = 1e-6
"""Seconds: chunks that are due at the same moment would not keep their order."""
_LAST_WORDS = 1.0
"""Seconds that a client has to take what was sent before a FIN."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Session:
    """Passes bytes both ways, exchange by exchange, as far as the fault that is on lets it.

    Each direction is a pump. One that returns ends the session with FIN, one that fails ends it with RST.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        target: Callable[[], str],
        mischief: Mischief,
        counters: Counters,
    ) -> None:
        """`target` tells the URL that the next exchange goes to."""
        self._reader, self._writer = reader, writer
        self._target = target
        self._mischief = mischief
        self._counters = counters
        self._url: str | None = None
        self._upstream: asyncio.StreamWriter | None = None
        self._answering: asyncio.Task[None] | None = None
        self._over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the client gets RST."""
        self._answered = 0
        """Bytes of answer in this exchange."""
        self._last_due = 0.0
        """When the last chunk that is held back goes on, on the loop's clock."""
        self._struck_by: Fault | None = None
        self._thrown_at = -1
        self._mute = False

    async def run(self) -> None:
        """Pass bytes until either side ends or a fault does; both connections are closed then."""
        self._counters.connections += 1
        self._counters.open += 1
        asking = self._start(self._ask)
        with_reset = True
        try:
            with_reset = await self._over
        finally:
            await _cancel(asking)
            await self._leave_target()
            await _close(self._writer, with_reset=with_reset)
            self._counters.open -= 1

    def kill(self) -> None:
        """End as the connections of a process do that dies. To cancel `run` instead would leave some of it open."""
        if not self._over.done():
            self._over.set_result(True)

    def _start(self, pump: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        async def until_over() -> None:
            with_reset = False
            try:
                await pump()
            except OSError:
                with_reset = True
            except Exception as bug:
                if not self._over.done():
                    self._over.set_exception(bug)
            if not self._over.done():
                self._over.set_result(with_reset)

        return asyncio.create_task(until_over())

    async def _ask(self) -> None:
        """Pass on what the client sends."""
        await self._mischief.thawed.wait()
        self._throw_dice()
        self._stop_if_reset_at_once()
        await self._go_to_target()
        begun = False
        while chunk := await self._reader.read(_CHUNK):
            await self._mischief.thawed.wait()
            if not begun or self._answered:
                self._counters.exchanges += 1
            if self._answered:  # so this is a new exchange; the dice of the first are those of the connection
                self._answered = 0
                self._throw_dice()
                if self._target() != self._url:
                    await self._leave_target()
                    await self._go_to_target()
            begun = True
            self._heed_a_turn()
            self._stop_if_reset_at_once()
            if not self._mute and self._upstream is not None:
                self._counters.bytes_sent += len(chunk)
                await _write(self._upstream, chunk)

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        """Pass back what the target answers."""
        await self._answer_until_end(reader)
        await asyncio.sleep(self._last_due - asyncio.get_running_loop().time())

    async def _answer_until_end(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(_CHUNK):
            await self._mischief.thawed.wait()
            self._heed_a_turn()
            self._stop_if_reset_at_once()
            if self._mute:
                continue
            fault = self._struck_by
            if fault is None or fault.kind is Kind.LATENCY:
                await self._pass_back_later(chunk, fault.seconds if fault else 0.0)
            elif fault.kind in (Kind.CUT, Kind.RESET):
                left = max(0, (fault.after_bytes or 0) - self._answered)
                await self._pass_back(chunk[:left])
                if len(chunk) < left:
                    continue
                if fault.kind is Kind.RESET:
                    raise ConnectionResetError
                return
            elif fault.kind is Kind.DRIBBLE:
                await self._dribble(chunk, fault)
            else:
                await self._pass_back(chunk)

    async def _dribble(self, chunk: bytes, fault: Fault) -> None:
        size = max(1, round(fault.bytes_per_second / _PIECES_PER_SECOND))
        while chunk and self._struck_by is fault:
            await self._pass_back(chunk[:size])
            chunk = chunk[size:]
            await asyncio.sleep(size / fault.bytes_per_second)
            self._heed_a_turn()
        await self._pass_back(chunk)

    async def _pass_back_later(self, chunk: bytes, seconds: float) -> None:
        """Pass a chunk back when it has been under way for so long; what comes meanwhile is under way beside it."""
        loop = asyncio.get_running_loop()
        if seconds or self._last_due > loop.time():
            self._last_due = max(loop.time() + seconds, self._last_due + _TICK)
            loop.call_at(self._last_due, self._write_back, chunk)
        else:
            await self._pass_back(chunk)

    async def _pass_back(self, chunk: bytes) -> None:
        self._write_back(chunk)
        await self._writer.drain()

    def _write_back(self, chunk: bytes) -> None:
        self._answered += len(chunk)
        self._counters.bytes_answered += len(chunk)
        if not self._writer.transport.is_closing():
            self._writer.write(chunk)

    def _throw_dice(self) -> None:
        self._thrown_at = self._mischief.turned
        self._struck_by = self._mischief.throw()
        # For good: whoever forgot a connection does not remember it later.
        self._mute = self._mute or (self._struck_by is not None and self._struck_by.kind is Kind.HALF_OPEN)

    def _heed_a_turn(self) -> None:
        """Throw the dice anew if another fault was turned on, or none, in the middle of an exchange."""
        if self._thrown_at != self._mischief.turned:
            self._throw_dice()

    def _stop_if_reset_at_once(self) -> None:
        fault = self._struck_by
        if fault is not None and (
            fault.kind is Kind.REFUSE or (fault.kind is Kind.RESET and fault.after_bytes is None)
        ):
            raise ConnectionResetError

    async def _go_to_target(self) -> None:
        self._url = self._target()
        parts = urlsplit(self._url)
        if parts.scheme == "unix":
            reader, self._upstream = await asyncio.open_unix_connection(unquote(parts.path))
        else:
            reader, self._upstream = await asyncio.open_connection(parts.hostname, parts.port)
        self._answering = self._start(partial(self._answer, reader))

    async def _leave_target(self) -> None:
        if self._answering is not None:
            await _cancel(self._answering)
        if self._upstream is not None:
            # With FIN always: the target still does what it was asked, though nobody will hear of it.
            await _close(self._upstream, with_reset=False)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _close(writer: asyncio.StreamWriter, *, with_reset: bool) -> None:
    if with_reset and not writer.transport.is_closing():
        sock: socket.socket = writer.get_extra_info("socket")
        # Without lingering the kernel sends RST in place of FIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()
    writer.close()
    # What the other side did to its connection meanwhile makes no difference.
    with contextlib.suppress(OSError):
        try:
            await asyncio.wait_for(writer.wait_closed(), _LAST_WORDS)
        except TimeoutError:
            writer.transport.abort()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
