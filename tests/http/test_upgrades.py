"""Requests that ask for another protocol, on real sockets: they are served as if they did not."""

import asyncio
import logging
import socket
import time

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.http import protocol
from tests.http.raw import Noting, Pieces, connected, serve_raw
from tests.plugins.gateway import ORDERS_KEY, Outside

UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
HIDDEN = b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n"
POST = b"POST /%%s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (UPGRADE, len(HIDDEN))
CHUNKED = b"POST /%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + UPGRADE + b"\r\n"
CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0", b""])
async def test_a_request_without_a_body_is_served(protocol: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """As `curl --http2` sends; the connection is kept."""
    async with connected(Noting()) as (reader, writer):
        for path in (b"b", b"c"):
            writer.write((GET % path).replace(b"h2c", protocol))
            assert (await reader.readuntil(b"/%s 0" % path)).startswith(b"HTTP/1.1 200")
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


@pytest.mark.parametrize(("head", "content"), [(POST, HIDDEN), (CHUNKED, CHUNK)], ids=["length", "chunked"])
async def test_a_body_is_a_body_and_no_request(head: bytes, content: bytes, pieces: Pieces) -> None:
    """As Java's client sends; what a proxy in front took for a body must not be a request here."""
    app, size = Noting(), len(HIDDEN)
    head %= b"b"
    async with connected(app) as (reader, writer):
        for parts in (
            [head + content],
            [head, content],
            [head + content[:10], content[10:]],
            [head[:-9], head[-9:], content],
        ):
            await pieces.send(writer, *parts)
            assert (await reader.readuntil(b"/b %d" % size)).startswith(b"HTTP/1.1 200")
    assert app.asked == ["/b"] * 4


@pytest.mark.parametrize(("version", "close"), [(b"1.0", b""), (b"1.1", b"Connection: close\r\n")])
async def test_the_last_request_is_served_too(version: bytes, close: bytes) -> None:
    answer = await serve_raw(Noting(), POST.replace(b"1.1\r\n", version + b"\r\n" + close) % b"b" + HIDDEN + HIDDEN)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"/b %d" % len(HIDDEN))


async def test_requests_in_the_same_piece_are_all_served() -> None:
    app = Noting()
    answers = await serve_raw(
        app, GET % b"b" * 50 + POST % b"c" + HIDDEN + b"GET /d HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    assert answers.count(b"HTTP/1.1 200") == 52
    assert app.asked == ["/b"] * 50 + ["/c", "/d"]


async def test_the_rest_of_its_head_is_as_it_was_sent() -> None:
    scopes: list[Scope] = []

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await Noting()(scope, receive, send)

    answer = await serve_raw(
        keep, b"DELETE /%C3%A9?a=%00&b HTTP/1.0\r\nX:\r\nA: \xe9 b \r\nx: y\r\n" + UPGRADE + b"\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200")
    (scope,) = scopes
    assert (scope["method"], scope["raw_path"], scope["query_string"], scope["http_version"]) == (
        "DELETE",
        b"/%C3%A9",
        b"a=%00&b",
        "1.0",
    )
    assert scope["headers"] == [
        (b"x", b""),
        (b"a", b"\xe9 b "),
        (b"x", b"y"),
        (b"connection", b"Upgrade, HTTP2-Settings"),
        (b"http2-settings", b"AAMAAABk"),
    ]


async def test_it_has_no_more_time_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first byte, not from the end of its head."""
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 1.0)
    async with connected(Noting()) as (reader, writer):
        started = asyncio.get_running_loop().time()
        writer.write((POST % b"b")[:-2])
        await asyncio.sleep(0.7)
        writer.write(b"\r\n")
        assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - started < 1.5


@pytest.mark.parametrize("target", [b"x:443", b"/b"])
async def test_a_tunnel_is_refused_with_all_that_follows(target: bytes, pieces: Pieces) -> None:
    app = Noting()
    async with connected(app) as (reader, writer):
        await pieces.send(writer, b"CONNECT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n" % target + HIDDEN)
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    assert app.asked == []


def test_a_create_that_asks_for_an_upgrade_is_a_create(gateway: Outside) -> None:
    content = b'{"price": "49.99", "currency": "usd", "order_id": "ORD-UPGRADE"}'
    head = b"POST /checkout-sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % ORDERS_KEY.encode()
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(content) + UPGRADE + b"\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port), timeout=5) as connection:
        connection.sendall(head)
        time.sleep(0.1)  # the body comes in a piece of its own
        connection.sendall(content)
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")
