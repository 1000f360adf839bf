"""Subscribers as servers on loopback, which keep what they got and answer as they are told."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True)
class HookRequest:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class HookServer:
    """A subscriber. `answer` may be changed at any time: bytes, or a coroutine function of a request and a writer."""

    OK = b"HTTP/1.1 204 No Content\r\n\r\n"

    def __init__(self) -> None:
        self.answer: bytes | Callable[[HookRequest, asyncio.StreamWriter], Awaitable[object]] = self.OK
        self.requests: list[HookRequest] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self._arrived = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    @property
    def ids(self) -> list[str]:
        return [request.id for request in self.requests]

    async def got(self, count: int) -> None:
        """Return when so many requests have arrived; fail if they do not."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def hang(self, _request: HookRequest, _writer: asyncio.StreamWriter) -> None:
        """Answer nothing, ever."""
        await asyncio.Event().wait()

    async def reset(self, _request: HookRequest, writer: asyncio.StreamWriter) -> None:
        """Break the connection."""
        linger_not = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See to one connection."""
        self.connections += 1
        self.open += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    request = await self._read(reader)
                    async with self._arrived:
                        self.requests.append(request)
                        self._arrived.notify_all()
                    if isinstance(self.answer, bytes):
                        writer.write(self.answer)
                        await writer.drain()
                    else:
                        await self.answer(request, writer)
        finally:
            self.open -= 1

    async def _read(self, reader: asyncio.StreamReader) -> HookRequest:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        return HookRequest(lines[0].split()[1], headers, await reader.readexactly(int(headers["content-length"])))


@pytest.fixture
async def hook_servers() -> AsyncIterator[Callable[..., Awaitable[HookServer]]]:
    """Starts subscribers on free ports of 127.0.0.1; they end, with their connections, after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, tls: ssl.SSLContext | None = None) -> HookServer:
            hook, connections = HookServer(), set()

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                connections.add(asyncio.current_task())
                try:
                    await hook.serve(reader, writer)
                except asyncio.CancelledError:
                    writer.transport.abort()
                finally:
                    writer.close()
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await writer.wait_closed()

            listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
            hook.port = listener.sockets[0].getsockname()[1]

            async def stop() -> None:
                listener.close()
                for task in connections:
                    task.cancel()
                await asyncio.gather(*connections, return_exceptions=True)

            stack.push_async_callback(stop)
            return hook

        yield start


@pytest.fixture
async def hook(hook_servers: Callable[..., Awaitable[HookServer]]) -> HookServer:
    """One subscriber, which takes what it gets until it is told otherwise."""
    return await hook_servers()
