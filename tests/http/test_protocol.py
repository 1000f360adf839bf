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


class Written:
    """A transport that notes what it is given."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def written() -> Written:
    return Written()


def held_back(written: Written) -> protocol._HeadWithBody:
    return protocol._HeadWithBody(written, asyncio.get_running_loop())  # type: ignore[arg-type]  # all that it uses


async def test_a_head_goes_out_with_its_body(written: Written) -> None:
    transport = held_back(written)
    transport.write(b"head ")
    transport.write(b"body")
    assert written.writes == [b"head body"]
    transport.write(b" more")
    assert written.writes == [b"head body", b" more"]
    await asyncio.sleep(0)
    assert written.writes == [b"head body", b" more"]


async def test_a_head_waits_for_no_body_longer_than_a_turn(written: Written) -> None:
    transport = held_back(written)
    transport.write(b"head")
    assert written.writes == []
    await asyncio.sleep(0)
    assert written.writes == [b"head"]
    transport.write(b"event")
    assert written.writes == [b"head", b"event"]


async def test_closing_loses_no_head(written: Written) -> None:
    transport = held_back(written)
    transport.write(b"head")
    transport.close()
    assert (written.writes, written.closed) == ([b"head"], True)


async def serve_raw(app, requests: bytes) -> bytes:
    """Send bytes to an application over a socket, and return all that comes until it closes."""
    sock = bind("127.0.0.1", 0)
    listener = Listener(app, sock, lifespan=False, grace=0)
    serving = asyncio.create_task(listener.run_until_stopped())
    try:
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(requests)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer
    finally:
        listener.should_exit = True
        await serving


async def echo_path(scope: Scope, receive: Receive, send: Send) -> None:
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def test_pipelined_answers_come_whole_and_in_order() -> None:
    heads = [b"GET /%d HTTP/1.1\r\nHost: x\r\n" % n for n in range(4)]
    answers = await serve_raw(echo_path, b"\r\n".join(heads[:3]) + b"\r\n" + heads[3] + b"Connection: close\r\n\r\n")
    assert [part.rpartition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK")[1:]] == [
        b"/0",
        b"/1",
        b"/2",
        b"/3",
    ]


async def test_an_answer_to_head_and_one_without_a_body_go_out_too() -> None:
    async def empty(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answer = await serve_raw(empty, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 204")
    answer = await serve_raw(echo_path, b"HEAD /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")
