"""Callers that do not take their answers, on real sockets."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway import server
from gateway.http import protocol
from gateway.http.cycle import Cycle
from gateway.server import Listener, bind
from tests.http.raw import body, listening, sent, serve_raw, start

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


def cycle(method: str = "GET") -> tuple[Cycle, Written]:
    """Return a request that waits for its answer, and where that will be written."""
    written = Written()
    log = logging.getLogger()
    return Cycle(
        {"type": "http", "method": method},  # type: ignore[typeddict-item]  # all that is looked at
        transport=written,  # type: ignore[arg-type]
        flow=FlowControl(written),  # type: ignore[arg-type]
        logger=log,
        access_logger=log,
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    ), written


HEAD_OF_4 = b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 4\r\n\r\n"


async def test_a_head_goes_out_with_its_body() -> None:
    answer, written = cycle()
    await answer.send(start((b"content-length", b"4")))
    assert written.writes == []
    await answer.send(body(b"body"))
    assert written.writes == [HEAD_OF_4 + b"body"]
    with pytest.raises(RuntimeError, match="after response already completed"):
        await answer.send(body(b""))


async def test_the_head_of_an_answer_without_a_length_waits_for_nothing() -> None:
    answer, written = cycle()
    await answer.send(start())
    assert [part.partition(b"\r\n")[0] for part in written.writes] == [b"HTTP/1.1 200 OK"]


@pytest.mark.parametrize("wrong", [start(), body(b"longer than 4"), body(b"")])
async def test_a_mistake_loses_no_head(wrong: Any) -> None:
    answer, written = cycle()
    await answer.send(start((b"content-length", b"4")))
    with pytest.raises(RuntimeError):
        await answer.send(wrong)
    assert written.writes[0] == HEAD_OF_4


async def test_a_body_in_parts_follows_its_head() -> None:
    answer, written = cycle()
    await answer.send(start((b"content-length", b"4")))
    await answer.send(body(b"bo", more=True))
    await answer.send(body(b"dy"))
    assert written.writes == [HEAD_OF_4, b"bo", b"dy"]


async def test_a_whole_answer_waits_while_the_caller_takes_nothing() -> None:
    for held in (False, True):
        answer, written = cycle()
        parts = [start((b"content-length", b"4")), body(b"body")]
        if held:
            await answer.send(parts.pop(0))
        answer.flow.pause_writing()
        waiting = asyncio.create_task(answer.send(parts.pop(0)))
        await asyncio.sleep(0)
        assert not waiting.done()
        answer.flow.resume_writing()
        await waiting
        for part in parts:
            await answer.send(part)
        assert written.writes == [HEAD_OF_4, b"body"]


async def test_nothing_is_written_for_a_caller_who_is_gone() -> None:
    answer, written = cycle()
    await answer.send(start((b"content-length", b"4")))
    answer.disconnected = True
    await answer.send(body(b"body"))
    assert written.writes == []


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


ANSWERS: dict[str, list[Message]] = {
    "plain": [start((b"content-type", b"text/plain"), (b"content-length", b"4")), body(b"body")],
    "in parts": [start((b"content-length", b"4")), body(b"bo", more=True), body(b"dy")],
    "chunked": [start((b"content-type", b"text/plain")), body(b"bo", more=True), body(b"dy")],
    "chunked by name": [start((b"transfer-encoding", b"chunked")), body(b"body")],
    "empty": [start((b"content-length", b"0")), body(b"")],
    "no body named": [start((b"content-length", b"0")), {"type": "http.response.body"}],
    "204": [start(status=204), body(b"")],
    "304": [start((b"etag", b'"a"'), status=304), body(b"")],
    "status of nobody's": [start((b"content-length", b"4"), status=299), body(b"body")],
    "capitals": [start((b"Content-Length", b"4"), (b"X-A", b"B")), body(b"body")],
    "one name twice": [start((b"vary", b"a"), (b"vary", b"b"), (b"content-length", b"4")), body(b"body")],
    "two lengths": [start((b"content-length", b"4"), (b"content-length", b"5")), body(b"body")],
    "closing": [start((b"content-length", b"4"), (b"connection", b"close")), body(b"body")],
    "keeping": [start((b"content-length", b"4"), (b"connection", b"keep-alive")), body(b"body")],
    "a tab and latin-1": [start((b"x-a", b"\t\xe9"), (b"content-length", b"4")), body(b"body")],
    "a name with a line end": [start((b"x-a\r\nx-b", b"c"), (b"content-length", b"4")), body(b"body")],
    "a value with a line end": [start((b"x-a", b"c\r\nx-b: d"), (b"content-length", b"4")), body(b"body")],
    "a value with a NUL": [start((b"x-a", b"\0"), (b"content-length", b"4")), body(b"body")],
    "no number": [start((b"content-length", b"four")), body(b"body")],
    "too long": [start((b"content-length", b"3")), body(b"body")],
    "too short": [start((b"content-length", b"5")), body(b"body")],
    "no start": [body(b"body")],
    "two starts": [start((b"content-length", b"4")), start(), body(b"body")],
    "more than its end": [start((b"content-length", b"4")), body(b"body"), body(b"")],
    "nothing": [],
}
REQUESTS = {
    "get": b"GET <path> HTTP/1.1\r\nHost: x\r\n\r\nGET <path> HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "head": b"HEAD <path> HTTP/1.1\r\nHost: x\r\n\r\nHEAD <path> HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "http 1.0": b"GET <path> HTTP/1.0\r\n\r\n",
    "expecting": b"POST <path> HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
}


async def give(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["method"] == "POST":
        await receive()
    for message in ANSWERS[scope["path"][1:]]:
        await send(dict(message))


async def answers_to(request_: bytes) -> dict[str, bytes]:
    """Return all that comes for each of the answers, whenever it came."""
    async with listening(give) as address:
        return {
            name: re.sub(rb"date: [^\r]*", b"date: today", await sent(address, request_.replace(b"<path>", path)))
            for name in ANSWERS
            for path in [b"/" + name.replace(" ", "%20").encode()]
        }


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
async def test_every_answer_goes_out_as_uvicorns_own_does(request_: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = await answers_to(request_)
    monkeypatch.setattr(protocol, "Cycle", RequestResponseCycle)
    assert ours == await answers_to(request_)


async def test_an_answer_whose_body_never_comes_is_none() -> None:
    async def begin(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-length", b"4")))

    assert await serve_raw(begin, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""


async def test_a_connection_without_requests_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.3)
    started = asyncio.get_running_loop().time()
    assert (await serve_raw(echo_path, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"/a")
    assert 0.25 < asyncio.get_running_loop().time() - started < 5


async def test_a_connection_with_requests_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.4)
    async with listening(echo_path) as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(4):
            writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.2)
        writer.close()


async def test_a_line_end_now_and_then_keeps_no_connection_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.3)
    async with listening(echo_path) as address, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"/a")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"\r\n")
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await reader.read()
        writer.close()


async def test_a_request_half_of_which_came_before_the_last_answer_may_take_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0 if scope["path"] == "/a" else 0.6)
        await echo_path(scope, receive, send)

    monkeypatch.setattr(server, "KEEP_ALIVE", 0.3)
    async with listening(slowly) as address, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHos")
        await reader.readuntil(b"/a")
        writer.write(b"t: x\r\n\r\n")
        assert (await reader.readuntil(b"/b")).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize("waiting", [1, 2])
async def test_a_request_that_is_not_read_yet_is_not_late(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the answers before it would be lost."""

    async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.7)
        await echo_path(scope, receive, send)

    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.5)
    async with listening(slowly) as address, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * waiting)
        writer.write(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"b")
        for _ in range(waiting):
            await reader.readuntil(b"/a")
        await reader.readuntil(b"/b")
        writer.close()


@pytest.mark.parametrize("behind", [0, 1, 3])
async def test_a_request_is_told_that_its_caller_is_gone_though_others_came_after_it(behind: int) -> None:
    """A stream would go on for half an hour, with nobody to read it."""
    asked, told = asyncio.Event(), asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    async with listening(wait) as address, asyncio.timeout(5):
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * (1 + behind))
        await asked.wait()
        writer.close()
        await told.wait()
