"""Trailers, after the last chunk of a body, on real sockets: they reach nobody, and fill no memory."""

import asyncio
import tracemalloc

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http import protocol
from gateway.http.protocol import MOST_HEAD_BYTES
from tests.http.raw import Noting, Pieces, body, connected, serve_raw, start

HEAD = b"POST /%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = HEAD % b"a" + b"3\r\nabc\r\n0\r\n%s\r\n"


class KeepingHeaders:
    """An application that answers before, or after, it has read the body, and keeps the scopes."""

    def __init__(self, *, early: bool) -> None:
        self._early = early
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        more = not self._early
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
        await send(start((b"content-length", b"0"), status=401))
        await send(body(b""))

    def headers(self) -> list[list[bytes]]:
        return [[name for name, _ in scope["headers"]] for scope in self.scopes]


@pytest.mark.parametrize("early", [False, True])
async def test_trailers_are_no_headers(early: bool, pieces: Pieces) -> None:
    """One would come after all that was checked: a key, an origin, an address."""
    app = KeepingHeaders(early=early)
    async with connected(app) as (reader, writer):
        for _ in range(2):
            await pieces.send(
                writer, HEAD % b"a", b"3\r\nabc\r\n0\r\nAuthorization: Bearer x\r\nOri", b"gin: o\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
    assert app.headers() == [[b"host", b"transfer-encoding"]] * 2


async def test_a_request_with_trailers_is_served_and_so_is_the_next() -> None:
    async with connected(Noting()) as (reader, writer):
        for trailers in (b"X: y\r\n", b"", b"X: y\r\nZ:\r\n"):
            writer.write(WHOLE % trailers * 2)
            for _ in range(2):
                assert (await reader.readuntil(b"/a 3")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_no_trailer_has_the_next_request_wait_for_ever(early: bool, version: bytes) -> None:
    """Behind a proxy, that may be another caller's."""
    app = KeepingHeaders(early=early)
    request = (WHOLE % b"Connection: close\r\n").replace(b"1.1", version)
    answer = await serve_raw(app, request + b"GET /b HTTP/1.1\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer
    assert len(app.scopes) == 1


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("begin", "unit"),
    [(b"", b"X: y\r\n"), (b"X: ", b"v"), (b"", b"n")],
    ids=["many", "a long value", "a long name"],
)
async def test_endless_trailers_are_not_kept(early: bool, begin: bytes, unit: bytes) -> None:
    app = KeepingHeaders(early=early)
    tracemalloc.start()
    try:
        async with connected(app) as (reader, writer):
            writer.write(HEAD % b"a" + b"0\r\n" + begin)
            before = tracemalloc.get_traced_memory()[0]
            block = unit * (32 * 1024 // len(unit))
            for _ in range(4 * 1024 * 1024 // len(block)):
                writer.write(block)
                try:
                    await writer.drain()
                except ConnectionError:
                    break
                held = tracemalloc.get_traced_memory()[0] - before
                assert held < 1.5 * 1024 * 1024
            else:
                pytest.fail("it was read to its end")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readuntil(b"nothing ends so")
    finally:
        tracemalloc.stop()
    assert app.headers() in ([], [[b"host", b"transfer-encoding"]])


async def test_trailers_that_are_too_long_are_refused_before_there_is_an_answer(pieces: Pieces) -> None:
    async with connected(Noting()) as (reader, writer):
        await pieces.send(writer, HEAD % b"a" + b"3\r\nabc\r\n0\r\nX: ", b"v" * MOST_HEAD_BYTES, b"v", b"v")
        assert await reader.read() == protocol._TOO_LARGE


async def test_trailers_that_are_too_long_are_refused_after_the_answers_before_them(pieces: Pieces) -> None:
    app = Noting()
    app.may_answer.clear()
    async with connected(app) as (reader, writer):
        await pieces.send(writer, HEAD % b"b" + b"0\r\n\r\n" + HEAD % b"c" + b"0\r\nX: ")
        app.may_answer.set()
        await pieces.send(writer, b"v" * MOST_HEAD_BYTES, b"v", b"v")
        answers = await reader.read()
    assert answers.startswith(b"HTTP/1.1 200")
    assert answers.endswith(b"/b 0" + protocol._TOO_LARGE)


async def test_large_chunks_are_no_trailers(pieces: Pieces) -> None:
    chunk = b"30000\r\n" + b"b" * 0x30000 + b"\r\n"
    async with connected(Noting()) as (reader, writer):
        for _ in range(2):
            await pieces.send(writer, HEAD % b"a", chunk[:7], chunk[7:] + chunk)
            await pieces.send(writer, b"0\r\n", b"X: y\r\n\r\n")
            assert (await reader.readuntil(b"/a %d" % (2 * 0x30000))).startswith(b"HTTP/1.1 200")
