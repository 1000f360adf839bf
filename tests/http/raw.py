"""Requests as bytes over real sockets, and applications to be asked by them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.server import Listener, bind


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Any:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, *, more: bool = False) -> Any:
    return {"type": "http.response.body", "body": data, "more_body": more}


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[tuple[str, int]]:
    """Serve an application; yield its address."""
    sock = bind("127.0.0.1", 0)
    listener = Listener(app, sock, lifespan=False, grace=0)
    serving = asyncio.create_task(listener.run_until_stopped())
    try:
        yield sock.getsockname()
    finally:
        listener.should_exit = True
        await serving


async def sent(address: tuple[str, int], requests: bytes) -> bytes:
    """Send bytes over a socket, and return all that comes until it closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(requests)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


async def serve_raw(app: ASGIApp, requests: bytes) -> bytes:
    """Send bytes to an application over a socket, and return all that comes until it closes."""
    async with listening(app) as address:
        return await sent(address, requests)


class Noting:
    """An application that says where it was asked, and how much it was sent, and notes all it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await self.may_answer.wait()
        answer = b"%s %d" % (scope["path"].encode(), size)
        await send(start((b"content-length", b"%d" % len(answer))))
        await send(body(answer))


class Pieces:
    """Notes the pieces that are read, and sends some."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def send(self, writer: asyncio.StreamWriter, *pieces: bytes) -> None:
        """Send each piece when those before it have been read."""
        for piece in pieces:
            came = sum(self.sizes)
            writer.write(piece)
            async with asyncio.timeout(10):
                while sum(self.sizes) < came + len(piece):
                    await asyncio.sleep(0.001)


@asynccontextmanager
async def connected(app: ASGIApp) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to an application."""
    async with listening(app) as address, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address)
        yield reader, writer
        writer.close()
