"""Requests that cannot be read, on real sockets: what they are answered, and when."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http import protocol
from gateway.http.protocol import MOST_HEAD_BYTES, MOST_WAITING
from tests.http.raw import Noting, Pieces, connected, listening, serve_raw

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
UNREADABLE = [
    b"no request\r\n\r\n",
    b"GET /bad HTTP/1.1\r\nno header\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
    CHUNKED % b"bad" + b"no chunk\r\n",
    CHUNKED % b"bad" + b"1\r\nb\r\nno chunk\r\n",
]


@pytest.mark.parametrize("request_", UNREADABLE)
async def test_what_cannot_be_read_is_told_so(request_: bytes) -> None:
    app = Noting()
    answer = await serve_raw(app, request_)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("request_", UNREADABLE)
@pytest.mark.parametrize("before", [1, 2])
async def test_it_is_told_after_the_answers_before_it(request_: bytes, before: int, pieces: Pieces) -> None:
    """Sooner, it would be taken for the answer to the first: that a payment, say, was never begun."""
    app = Noting()
    app.may_answer.clear()
    async with connected(app) as (reader, writer):
        await pieces.send(writer, b"".join([GET % path for path in (b"b", b"c")[:before]]) + request_ + GET % b"never")
        app.may_answer.set()
        answers = await reader.read()
    assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == [b"200"] * before + [b"400"]
    assert app.asked == ["/b", "/c"][:before]


async def test_a_request_is_refused_while_its_body_is_waited_for(pieces: Pieces) -> None:
    """Its own answer would never come."""
    app = Noting()
    async with connected(app) as (reader, writer):
        await pieces.send(writer, CHUNKED % b"b" + b"1\r\nb\r\n")
        while not app.asked:
            await asyncio.sleep(0.001)
        await pieces.send(writer, b"no chunk\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")


async def test_nothing_follows_an_answer_to_a_body_that_cannot_be_read(pieces: Pieces) -> None:
    """It would be taken for the answer to the next request."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with connected(refuse) as (reader, writer):
        await pieces.send(writer, CHUNKED % b"b")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
        await pieces.send(writer, b"no chunk\r\n")
        assert await reader.read() == b""


async def test_what_is_both_too_long_and_no_request_is_refused_as_either(pieces: Pieces) -> None:
    """In one piece as no request; in several as too long, once they were."""
    async with listening(Noting()) as address:
        for first in (b"", b"\x00"):
            reader, writer = await asyncio.open_connection(*address)
            await pieces.send(writer, first + b"no request " * 4000)
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()
        reader, writer = await asyncio.open_connection(*address)
        await pieces.send(writer, b"GET /a HTTP/1.1\r\nX: ", b"v" * MOST_HEAD_BYTES, b"v\r\nno header\r\n\r\n")
        assert await reader.read() == protocol._TOO_LARGE
        writer.close()


@pytest.mark.parametrize("upgrade", [b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"])
async def test_of_very_many_requests_the_first_are_answered(upgrade: bytes) -> None:
    """The last answer says that it is; the others would fill the memory, at 2 KB for 18 bytes."""
    app = Noting()
    get = b"GET /b HTTP/1.1\r\n" + upgrade + b"\r\n"
    answers = await serve_raw(app, get * (MOST_WAITING + 2))
    *others, last = answers.split(b"HTTP/1.1 200")[1:]
    assert len(app.asked) == len(others) + 1 == MOST_WAITING + 1
    assert b"connection: close" in last
    assert not any(b"connection: close" in other for other in others)
    async with connected(app) as (reader, writer):
        writer.write(get * (MOST_WAITING + 1))
        for _ in range(MOST_WAITING + 1):
            await reader.readuntil(b"/b 0")
        writer.write(get)
        await reader.readuntil(b"/b 0")
