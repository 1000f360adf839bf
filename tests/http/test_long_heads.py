"""Requests whose heads are too long, however they come, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http import protocol
from gateway.http.protocol import MOST_HEAD_BYTES, BoundedHttpProtocol
from tests.http.test_protocol import body, listening, start

CLOSE = b"Host: x\r\nConnection: close\r\n"


def with_a_long_value(size: int, path: bytes = b"/a", headers: bytes = CLOSE) -> bytes:
    """Return a head of so many bytes, most of them in one value."""
    begin = b"GET " + path + b" HTTP/1.1\r\n" + headers + b"X: "
    return begin + b"v" * (size - len(begin) - 4) + b"\r\n\r\n"


TOO_LONG = with_a_long_value(MOST_HEAD_BYTES + 1)
REFUSED = protocol._TOO_LARGE


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


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Pieces:
    noted, receive = Pieces(), BoundedHttpProtocol.data_received

    def note(self: BoundedHttpProtocol, data: bytes) -> None:
        noted.sizes.append(len(data))
        receive(self, data)

    monkeypatch.setattr(BoundedHttpProtocol, "data_received", note)
    return noted


@asynccontextmanager
async def connected(app: ASGIApp) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to an application."""
    async with listening(app) as address, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address)
        yield reader, writer
        writer.close()


async def test_a_head_without_an_end_is_refused(pieces: Pieces) -> None:
    app = Noting()
    async with connected(app) as (reader, writer):
        await pieces.send(writer, TOO_LONG[:100], b"v" * 30_000, b"v" * 10_000, b"v")
        assert await reader.read() == REFUSED
    assert app.asked == []


POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


async def test_a_head_without_an_end_behind_a_request_is_refused_after_its_answer(pieces: Pieces) -> None:
    app = Noting()
    app.may_answer.clear()
    async with connected(app) as (reader, writer):
        await pieces.send(writer, POST % (b"/b", 0) + TOO_LONG[:100], b"v" * 30_000, b"v" * 10_000, b"v" * 100_000)
        app.may_answer.set()
        answers = await reader.read()
    assert answers.startswith(b"HTTP/1.1 200")
    assert answers.endswith(b"/b 0" + REFUSED)
