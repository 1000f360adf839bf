"""Requests whose heads are too long, however they come, on real sockets."""

import asyncio
import re
from collections.abc import Callable

import pytest

from gateway.http import protocol
from gateway.http.protocol import MOST_HEAD_BYTES
from tests.http.raw import Noting, Pieces, connected, listening, serve_raw

CLOSE = b"Host: x\r\nConnection: close\r\n"


def with_a_long_value(size: int, path: bytes = b"/a", headers: bytes = CLOSE) -> bytes:
    """Return a head of so many bytes, most of them in one value."""
    begin = b"GET " + path + b" HTTP/1.1\r\n" + headers + b"X: "
    return begin + b"v" * (size - len(begin) - 4) + b"\r\n\r\n"


def with_many_headers(size: int) -> bytes:
    """Return a head of so many bytes, in headers as small as can be."""
    begin = b"GET /a HTTP/1.1\r\n" + CLOSE
    some, rest = divmod(size - len(begin) - 2, len(b"x: \r\n"))
    return begin + b"x: \r\n" * (some - 1) + b"x: " + b"v" * rest + b"\r\n\r\n"


def with_a_long_url(size: int) -> bytes:
    """Return a head of so many bytes, most of them in its query."""
    end = b" HTTP/1.1\r\n" + CLOSE + b"\r\n"
    return b"GET /a?".ljust(size - len(end), b"q") + end


Shape = Callable[[int], bytes]
shapes = pytest.mark.parametrize("shape", [with_a_long_value, with_many_headers, with_a_long_url])
TOO_LONG = with_a_long_value(MOST_HEAD_BYTES + 1)
REFUSED = protocol._TOO_LARGE


@shapes
async def test_a_head_of_32_kib_is_served(shape: Shape, pieces: Pieces) -> None:
    assert (await serve_raw(Noting(), shape(MOST_HEAD_BYTES))).endswith(b"/a 0")
    assert pieces.sizes == [MOST_HEAD_BYTES]


@shapes
@pytest.mark.parametrize("size", [MOST_HEAD_BYTES + 1, 70_000])
async def test_a_longer_head_is_refused_also_in_one_piece(shape: Shape, size: int, pieces: Pieces) -> None:
    app = Noting()
    assert await serve_raw(app, shape(size)) == REFUSED
    assert app.asked == []
    assert size > MOST_HEAD_BYTES + 1 or pieces.sizes == [size]


async def test_a_head_in_two_pieces_is_measured_as_a_whole(pieces: Pieces) -> None:
    """Also where the cut is in the line ends that end it."""
    app = Noting()
    async with listening(app) as address:
        for cut in (1, 10, 1000, 20_000, -1000, -4, -3, -2, -1):
            for head, answer in ((with_a_long_value(MOST_HEAD_BYTES), b"/a 0"), (TOO_LONG, REFUSED)):
                reader, writer = await asyncio.open_connection(*address)
                await pieces.send(writer, head[:cut], head[cut:])
                assert (await reader.read()).endswith(answer)
                writer.close()
    assert len(app.asked) == 9


async def test_a_head_without_an_end_is_refused(pieces: Pieces) -> None:
    app = Noting()
    async with connected(app) as (reader, writer):
        await pieces.send(writer, TOO_LONG[:100], b"v" * 30_000, b"v" * 10_000, b"v")
        assert await reader.read() == REFUSED
    assert app.asked == []


async def test_a_long_head_is_refused_on_a_kept_connection_too(pieces: Pieces) -> None:
    app = Noting()
    async with connected(app) as (reader, writer):
        for path in (b"/b", b"/c"):
            await pieces.send(writer, with_a_long_value(MOST_HEAD_BYTES, path, b"Host: x\r\n"))
            await reader.readuntil(path + b" 0")
        await pieces.send(writer, TOO_LONG)
        assert await reader.read() == REFUSED
    assert app.asked == ["/b", "/c"]


POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
LARGE_BODY = b"b" * 200_000


@pytest.mark.parametrize("length", [10, 40_000])
@pytest.mark.parametrize("cut", [None, -2, -20_000])
async def test_a_long_head_behind_a_request_is_refused_after_its_answer(
    length: int, cut: int | None, pieces: Pieces
) -> None:
    """Sooner, it would be taken for the answer to the first: that a payment, say, was never begun."""
    app = Noting()
    app.may_answer.clear()
    async with connected(app) as (reader, writer):
        requests = POST % (b"/b", length) + b"b" * length + TOO_LONG
        await pieces.send(writer, *([requests] if cut is None else [requests[:cut], requests[cut:]]))
        await pieces.send(writer, b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        app.may_answer.set()
        answers = await reader.read()
    first, _, rest = answers.partition(b"/b %d" % length)
    assert first.startswith(b"HTTP/1.1 200")
    assert rest == REFUSED
    assert app.asked == ["/b"]


async def test_a_head_without_an_end_behind_a_request_is_refused_after_its_answer(pieces: Pieces) -> None:
    app = Noting()
    app.may_answer.clear()
    async with connected(app) as (reader, writer):
        await pieces.send(writer, POST % (b"/b", 0) + TOO_LONG[:100], b"v" * 30_000, b"v" * 10_000, b"v" * 100_000)
        app.may_answer.set()
        answers = await reader.read()
    assert answers.startswith(b"HTTP/1.1 200")
    assert answers.endswith(b"/b 0" + REFUSED)


async def test_what_follows_a_long_head_is_not_read() -> None:
    app = Noting()
    get = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = await serve_raw(app, get % b"b" + get % b"c" + TOO_LONG + get % b"never")
    assert re.findall(rb"HTTP/1.1 \d+|/\w 0", answers) == [
        b"HTTP/1.1 200",
        b"/b 0",
        b"HTTP/1.1 200",
        b"/c 0",
        b"HTTP/1.1 431",
    ]
    assert app.asked == ["/b", "/c"]


async def test_nothing_follows_an_answer_that_ends_the_connection(pieces: Pieces) -> None:
    async with connected(Noting()) as (reader, writer):
        await pieces.send(writer, b"GET /b HTTP/1.1\r\n" + CLOSE + b"\r\n" + TOO_LONG)
        assert (await reader.read()).endswith(b"/b 0")


async def test_a_large_body_makes_no_head_long(pieces: Pieces) -> None:
    requests = POST % (b"/b", len(LARGE_BODY)) + LARGE_BODY
    async with connected(Noting()) as (reader, writer):
        for _ in range(2):
            writer.write(requests * 2)
            for _ in range(2):
                assert (await reader.readuntil(b"/b 200000")).startswith(b"HTTP/1.1 200")
        await pieces.send(writer, requests[:30], requests[30:])
        assert (await reader.readuntil(b"/b 200000")).startswith(b"HTTP/1.1 200")
    assert max(pieces.sizes) > MOST_HEAD_BYTES


async def test_what_is_no_request_is_still_told_so() -> None:
    assert (await serve_raw(Noting(), b"no request\r\n\r\n")).startswith(b"HTTP/1.1 400")
