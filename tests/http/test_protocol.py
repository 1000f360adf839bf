"""Callers that do not take their answers, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http import protocol
from gateway.server import Listener, bind

ANSWER = b"x" * 512 * 1024
STALL = 0.2


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(ANSWER))]})
    await send({"type": "http.response.body", "body": ANSWER})


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_SECONDS", STALL)


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[Listener, asyncio.StreamReader]]:
    """Ask for a large answer over small buffers; yield the listener, and where the answer arrives."""
    sock = bind("127.0.0.1", 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.setblocking(False)
    listener = Listener(large, sock, lifespan=False, grace=0)
    serving = asyncio.create_task(listener.run_until_stopped())
    await asyncio.get_running_loop().sock_connect(own, sock.getsockname())
    reader, writer = await asyncio.open_connection(sock=own, limit=4096)
    writer.write(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield listener, reader
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        listener.should_exit = True
        await serving


@pytest.mark.usefixtures("_impatient")
async def test_a_caller_that_takes_nothing_of_its_answer_is_cut_off() -> None:
    async with asked() as (listener, reader):
        assert listener.server_state.connections
        async with asyncio.timeout(10):
            while listener.server_state.connections:
                await asyncio.sleep(0.01)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(len(ANSWER))


@pytest.mark.usefixtures("_impatient")
async def test_a_caller_that_is_slow_but_goes_on_gets_all_of_it() -> None:
    async with asked() as (_, reader):
        started, left = asyncio.get_running_loop().time(), len(ANSWER)
        while left:
            left -= len(await reader.readexactly(min(left, 16 * 1024)))
            await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - started > 2 * STALL
