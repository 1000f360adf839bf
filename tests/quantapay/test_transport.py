"""The transport over real sockets: small servers that answer, or misbehave, byte by byte."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import Counter

import httpx
import pytest
import uvloop

from gateway.quantapay.transport import AiohttpTransport

KEY = "CanaryKeyInTheBody"
BODY = f"function=get-balances&api-key={KEY}".encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# A throwaway certificate for localhost and 127.0.0.1, good for these tests and nothing else.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgP0noCQbCX0HTZnyG
gLrFq6yCab7g8YNw8ugNksc1m6OhRANCAAQy5DP1e54gEA4qUIuAMmTL3/VSHyjx
2cQqCc05BvfY/zBEcQKdLlEvPZvKQBtsfQegS5/RBCTGIkme/RQ0anC9
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBZzCCAQ2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDLkM/V7niAQDipQ
i4AyZMvf9VIfKPHZxCoJzTkG99j/MERxAp0uUS89m8pAG2x9B6BLn9EEJMYiSZ79
FDRqcL2jTjBMMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBSnHskndTiCvRPem4fcnmyRDQf0gzAKBggqhkjOPQQD
AgNIADBFAiEAmpU7MNXENqdS1lrJj3xZgm9Fs2oYaLi/FacX29IBATECIEqkkN1W
ggbY/KFb+mlXLj5+/bh02ULpiATsaHnuEILE
-----END CERTIFICATE-----
"""


class Server:
    """A TCP server that hands each request's head and body to a coroutine, which answers as it likes."""

    def __init__(self, answer, *, port):
        self.requests = []
        self.arrivals = asyncio.Queue()
        self.connections = 0
        self.port = port
        self._answer = answer

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/api.php"

    async def handle(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(content_length(head)))
                self.arrivals.put_nowait(None)
                await self._answer(writer, len(self.requests))
        writer.close()


def content_length(head):
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(lengths[0].split(b":")[1]) if lengths else 0


def sending(*parts, then="stay"):
    """Answer every request with these bytes, then stay, close or reset."""

    async def answer(writer, _number):
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then == "reset":
            reset(writer)
        elif then == "close":
            writer.close()

    return answer


def reset(writer):
    linger_not = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
    writer.transport.abort()


@pytest.fixture
async def serve():
    """Start servers on free ports of 127.0.0.1 and close them with their connections."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(answer=None, *, raw=None, tls=None):
            connections = set()

            async def accept(reader, writer):
                connections.add(asyncio.current_task())
                try:
                    await (raw or server.handle)(reader, writer)
                except asyncio.CancelledError:
                    writer.transport.abort()
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()

            listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
            server = Server(answer, port=listener.sockets[0].getsockname()[1])

            async def stop():
                listener.close()
                for task in connections:
                    task.cancel()
                await asyncio.gather(*connections, return_exceptions=True)

            stack.push_async_callback(stop)
            return server

        yield start


@pytest.fixture
async def connect():
    """Make clients over the transport, and close them."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**options):
            timeout = options.pop("timeout", 10)
            client = httpx.AsyncClient(
                transport=AiohttpTransport(**options), timeout=timeout, trust_env=False, follow_redirects=False
            )
            return await stack.enter_async_context(client)

        yield make


async def failing(client, url, expected, *, method="POST"):
    """Send what must fail with exactly this error, whose texts and context give nothing away."""
    with pytest.raises(httpx.TransportError) as failed:
        await client.request(method, url, content=BODY if method == "POST" else None)
    assert type(failed.value) is expected
    fault = failed.value
    while fault is not None:
        assert KEY not in f"{fault} {fault!r} {fault.args}"
        assert "garbage" not in f"{fault} {fault!r} {fault.args}"
        fault = fault.__cause__ or fault.__context__
    return failed.value


# What is sent and received


async def test_httpx_decides_every_header_and_aiohttp_adds_none(serve, connect):
    server = await serve(sending(OK))
    client = await connect()

    answer = await client.post(server.url, content=BODY, headers={"Accept": "application/json"})

    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    names = sorted(line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:])
    assert names == sorted(name for name, _ in answer.request.headers.raw for name in [name.lower()])
    assert head.startswith(b"POST /api.php HTTP/1.1\r\n")
    assert body == BODY


async def test_a_get_has_no_body_and_no_length(serve, connect):
    server = await serve(sending(OK))
    client = await connect()

    await client.get(server.url)

    assert b"content-length" not in server.requests[0].lower()
    assert b"transfer-encoding" not in server.requests[0].lower()


async def test_the_address_and_repeated_headers_are_sent_as_httpx_wrote_them(serve, connect):
    server = await serve(sending(OK))
    client = await connect()

    await client.get(
        server.url + "?a=%7e%2Fb&c=%25#part", headers=[("X-A", "1"), ("X-A", "é".encode())], auth=("u", "p")
    )

    assert server.requests[0].startswith(b"GET /api.php?a=%7e%2Fb&c=%25 HTTP/1.1\r\n")
    assert b"X-A: 1\r\nX-A: \xc3\xa9\r\n" in server.requests[0]
    assert server.requests[0].lower().count(b"authorization: basic") == 1


async def test_credentials_in_the_address_are_httpxs_to_send(serve, connect):
    server = await serve(sending(OK))
    client = await connect()

    await client.get(server.url.replace("//", "//name:word@"))

    assert server.requests[0].lower().count(b"authorization: basic") == 1


async def test_status_headers_and_body_come_as_the_server_sent_them(serve, connect):
    packed = b"\x1f\x8b not really gzip"
    head = b"HTTP/1.0 418 Short and stout\r\nX-A: 1\r\nX-A: 2\r\nContent-Encoding: gzip\r\n\r\n"
    server = await serve(sending(head + packed, then="close"))
    client = await connect()

    async with client.stream("POST", server.url, content=BODY) as answer:
        received = b"".join([part async for part in answer.aiter_raw()])

    assert (answer.status_code, answer.reason_phrase, answer.http_version) == (418, "Short and stout", "HTTP/1.0")
    assert answer.headers.get_list("x-a") == ["1", "2"]
    assert received == packed


async def test_a_chunked_answer_and_one_after_100_continue_are_read(serve, connect):
    server = await serve(
        sending(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
            b"0\r\n\r\n",
        )
    )
    client = await connect()

    assert (await client.post(server.url, content=BODY)).text == "ok"
    assert (await client.post(server.url, content=BODY)).text == "ok"
    assert server.connections == 1


async def test_an_answer_without_a_body_gives_its_connection_back(serve, connect):
    server = await serve(sending(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"))
    client = await connect()

    assert (await client.head(server.url)).content == b""
    assert (await client.head(server.url)).content == b""
    assert server.connections == 1


@pytest.mark.parametrize(
    ("texts", "sent"), [((b"one", b"two"), b"6\r\nonetwo\r\n0\r\n\r\n"), ((), b"0\r\n\r\n")], ids=["two", "none"]
)
async def test_a_body_without_a_length_is_sent_as_one_chunk(serve, connect, texts, sent):
    async def parts():
        for text in texts:
            yield text

    received = []

    async def raw(reader, writer):
        received.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(OK)
        writer.close()

    server = await serve(raw=raw)
    client = await connect()

    assert (await client.post(server.url, content=parts())).text == "ok"
    assert received[0].lower().count(b"transfer-encoding: chunked") == 1
    assert received[0].partition(b"\r\n\r\n")[2] == sent


async def test_redirects_are_answers_and_cookies_are_forgotten(serve):
    server = await serve(
        sending(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    )
    transport = AiohttpTransport()
    # A name, because even a jar that keeps cookies keeps none for a bare address.
    request = httpx.Request("GET", server.url.replace("127.0.0.1", "localhost"))

    for _ in range(2):
        answer = await transport.handle_async_request(request)
        await answer.aread()
        assert answer.status_code == 302
    await transport.aclose()

    assert len(server.requests) == 2
    assert b"cookie" not in server.requests[1].lower()


async def test_proxies_of_the_environment_are_not_asked(serve, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server = await serve(sending(OK))
    client = await connect()

    assert (await client.get(server.url)).text == "ok"


async def test_connections_are_reused_until_they_have_been_idle_too_long(serve, connect):
    server = await serve(sending(OK))
    keeping, dropping = await connect(), await connect(keepalive_seconds=0)

    for client in (keeping, keeping, dropping, dropping):
        await client.post(server.url, content=BODY)

    assert server.connections == 3


async def test_a_transport_that_was_never_used_closes():
    await AiohttpTransport().aclose()


# What is never sent twice


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("then", "expected"), [("close", httpx.RemoteProtocolError), ("reset", httpx.ReadError)])
async def test_a_request_lost_on_a_kept_connection_is_sent_exactly_once(serve, connect, method, then, expected):
    async def answer(writer, number):
        await sending(OK)(writer, number) if number == 1 else await sending(then=then)(writer, number)

    server = await serve(answer)
    client = await connect()
    await client.request(method, server.url)

    await failing(client, server.url, expected, method=method)

    assert len(server.requests) == 2
    assert server.connections == 1


async def test_a_connection_the_server_closed_while_idle_is_replaced_unnoticed(serve, connect):
    closed = asyncio.Event()

    async def answer(writer, _number):
        writer.write(OK)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await serve(answer)
    client = await connect()

    for _ in range(3):
        closed.clear()
        assert (await client.post(server.url, content=BODY)).text == "ok"
        await closed.wait()
        await asyncio.sleep(0.01)  # for the closing to cross the loopback

    assert server.connections == 3


@pytest.mark.parametrize("when", ["with the answer", "while idle"])
async def test_an_answer_that_nobody_asked_for_is_never_taken_for_the_next_ones(serve, connect, when):
    unasked = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    told = asyncio.Event()

    async def answer(writer, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
        if when == "while idle":
            await writer.drain()
            await told.wait()
        writer.write(unasked)
        await writer.drain()

    server = await serve(answer)
    client = await connect()

    for number in (1, 2, 3):
        told.clear()
        assert (await client.post(server.url, content=BODY)).text == str(number)
        told.set()
        await asyncio.sleep(0.01)  # for the unasked to cross the loopback

    assert server.connections == 3


def test_a_server_that_speaks_first_is_not_asked_for_connections_without_end():
    async def refuse(_reader, writer):
        nonlocal connections
        connections += 1
        writer.write(b"HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def ask():
        listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/api.php"
        async with listener, httpx.AsyncClient(transport=AiohttpTransport(), timeout=3) as client, asyncio.timeout(2):
            # Which of them depends on when its word arrives.
            with contextlib.suppress(httpx.ConnectError, httpx.ReadError):
                assert (await client.post(url, content=BODY)).status_code == 503

    connections = 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # which reads as soon as it has connected
        runner.run(ask())
    assert connections <= 8


# Errors: before anything was sent


@pytest.fixture
def unused_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]  # bound and not listening: surely refused


async def test_a_refused_connection_is_a_connect_error(connect, unused_port):
    await failing(await connect(), f"http://127.0.0.1:{unused_port}/", httpx.ConnectError)


async def test_a_name_that_does_not_exist_is_a_connect_error(connect):
    await failing(await connect(), "http://no-such-host.invalid/", httpx.ConnectError)


async def test_a_plain_server_behind_https_is_a_connect_error(serve, connect):
    async def raw(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await serve(raw=raw)

    await failing(await connect(), server.url.replace("http:", "https:"), httpx.ConnectError)


async def test_a_server_that_hangs_up_during_the_handshake_is_a_connect_error(serve, connect):
    async def raw(reader, writer):
        await reader.read(100)
        writer.close()

    server = await serve(raw=raw)

    await failing(await connect(), server.url.replace("http:", "https:"), httpx.ConnectError)


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "localhost.pem"
    path.write_text(CERTIFICATE)
    return path


async def test_a_certificate_nobody_vouches_for_is_a_connect_error_unless_it_was_handed_in(serve, connect, certificate):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    server = await serve(sending(OK), tls=tls)
    url = server.url.replace("http:", "https:")

    await failing(await connect(), url, httpx.ConnectError)
    assert server.requests == []

    trusting = await connect(ssl_context=ssl.create_default_context(cafile=certificate))
    assert (await trusting.post(url, content=BODY)).text == "ok"


@pytest.fixture
def silent_port():
    """A port where the system takes connections and nobody ever says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("seconds", [0.05, 0])
async def test_a_handshake_that_never_ends_is_a_connect_timeout(connect, silent_port, seconds):
    client = await connect(timeout=httpx.Timeout(10, connect=seconds))

    await failing(client, f"https://127.0.0.1:{silent_port}/", httpx.ConnectTimeout)


async def test_a_read_timeout_of_zero_means_at_once_and_not_never(connect, silent_port):
    client = await connect(timeout=httpx.Timeout(10, read=0))

    await failing(client, f"http://127.0.0.1:{silent_port}/", httpx.ReadTimeout)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "ws://127.0.0.1/", "//127.0.0.1/", "/api.php", "http:///x", "file:///etc/hosts"]
)
async def test_what_is_no_address_of_a_web_server_is_an_unsupported_protocol(url):
    transport = AiohttpTransport()

    with pytest.raises(httpx.UnsupportedProtocol):
        await transport.handle_async_request(httpx.Request("GET", url))
    await transport.aclose()


@pytest.mark.parametrize("url", [f"http://{'a' * 64}.invalid/", "http://127.1/"])
async def test_a_name_that_no_resolver_takes_is_an_error_of_httpxs(connect, url):
    with pytest.raises(httpx.TransportError):
        await (await connect()).get(url)


async def test_a_header_with_a_line_break_is_an_error_of_httpxs_and_injects_nothing(serve, connect):
    server = await serve(sending(OK))

    with pytest.raises(httpx.TransportError):
        await (await connect()).get(server.url, headers={"X-A": "1\r\nX-B: 2"})

    assert server.requests == []


async def test_a_method_that_is_none_is_an_error_of_httpxs_and_injects_nothing(serve, connect):
    server = await serve(sending(OK))

    with pytest.raises(httpx.TransportError):
        await (await connect()).request("GET / HTTP/1.1\r\nX-B: 2\r\n\r\nGET", server.url)

    assert server.requests == []


# Errors: after sending began


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (sending(then="close"), httpx.RemoteProtocolError),
        (sending(then="reset"), httpx.ReadError),
        (sending(b"HTTP/1.1 200 OK\r\nX: gar", then="close"), httpx.RemoteProtocolError),
        (sending(b"garbage\r\n\r\n"), httpx.RemoteProtocolError),
        (sending(b"HTTP/1.1 garbage\r\n\r\n"), httpx.RemoteProtocolError),
        (sending(b"\x15\x03\x01\x00\x02\x02\x46" * 9), httpx.RemoteProtocolError),
        (sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", then="close"), httpx.RemoteProtocolError),
        (sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", then="reset"), httpx.RemoteProtocolError),
        (sending(b"HTTP/1.1 200 OK\r\nContent-Length: garbage\r\n\r\n"), httpx.RemoteProtocolError),
        (
            sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ngarbage\r\n"),
            httpx.RemoteProtocolError,
        ),
        (
            sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok", then="close"),
            httpx.RemoteProtocolError,
        ),
        (sending(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"), httpx.RemoteProtocolError),
        (sending(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 5_000 + b"\r\n"), httpx.RemoteProtocolError),
    ],
    ids=[
        "closed", "reset", "head cut off", "garbage", "garbage status", "TLS alert", "body cut off", "body reset",
        "garbage length", "bad chunk", "chunk cut off", "header too long", "too many headers",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_answer_that_is_none_is_an_error_after_sending(serve, connect, answer, expected, method):
    server = await serve(answer)
    client = await connect(max_connections=1)

    await failing(client, server.url, expected, method=method)
    await failing(client, server.url, expected, method=method)  # the place came back

    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "begun",
    [
        b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    ],
)  # fmt: skip
async def test_a_slow_answer_is_a_read_timeout_wherever_it_stops(serve, connect, begun):
    server = await serve(sending(begun))
    client = await connect(max_connections=1, timeout=httpx.Timeout(10, read=0.05))

    await failing(client, server.url, httpx.ReadTimeout)
    await failing(client, server.url, httpx.ReadTimeout)


async def never_reading(_reader, _writer):
    await asyncio.Event().wait()


async def test_a_body_the_server_does_not_take_is_a_read_timeout(serve, connect):
    server = await serve(raw=never_reading)
    client = await connect(timeout=httpx.Timeout(10, read=0.05))

    with pytest.raises(httpx.ReadTimeout):
        await client.post(server.url, content=b"x" * 30_000_000)


async def test_no_timeout_at_all_is_no_timeout(serve, connect):
    server = await serve(sending(OK))
    client = await connect(timeout=None)

    assert (await client.post(server.url, content=BODY)).text == "ok"


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
async def test_an_answer_before_the_whole_body_was_sent_is_still_the_answer_and_the_last_there(
    serve, connect, certificate, over_tls
):
    async def raw(reader, writer):
        server.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        writer.transport.pause_reading()
        await asyncio.Event().wait()

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if over_tls else None
    if tls is not None:
        tls.load_cert_chain(certificate)
    server = await serve(raw=raw, tls=tls)
    client = await connect(max_connections=1, ssl_context=ssl.create_default_context(cafile=certificate))
    url = server.url.replace("http:", "https:") if over_tls else server.url

    for _ in range(2):
        answer = await client.post(url, content=b"x" * 30_000_000)
        assert (answer.status_code, answer.content) == (413, b"no")
    assert server.connections == 2


# Places


@contextlib.asynccontextmanager
async def holding_the_only_connection(client, server):
    """Keep one request waiting for its answer."""
    held = asyncio.create_task(client.post(server.url, content=BODY))
    await server.arrivals.get()
    yield held
    held.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await held


@pytest.mark.parametrize("seconds", [0.05, 0])
async def test_more_requests_than_connections_wait_and_then_time_out_of_the_pool(serve, connect, seconds):
    server = await serve(sending())
    client = await connect(max_connections=1, timeout=httpx.Timeout(10, pool=seconds))

    async with holding_the_only_connection(client, server):
        await failing(client, server.url, httpx.PoolTimeout)

    assert len(server.requests) == 1


@pytest.fixture
def gated():
    """An answer that waits for its gate, and the gate."""
    gate = asyncio.Event()

    async def answer(writer, _number):
        await gate.wait()
        writer.write(OK)

    return answer, gate


async def test_cancelling_fifty_waiting_requests_loses_no_place(serve, connect, gated):
    answer, gate = gated
    server = await serve(answer)
    client = await connect(max_connections=1)

    async with holding_the_only_connection(client, server) as held:
        waiting = [asyncio.create_task(client.post(server.url, content=BODY)) for _ in range(50)]
        await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        gate.set()
        assert (await held).text == "ok"

    assert Counter(map(type, outcomes)) == {asyncio.CancelledError: 50}
    assert (await client.post(server.url, content=BODY)).text == "ok"
    assert len(server.requests) == 2


async def test_cancelling_the_request_whose_turn_just_came_wakes_the_next(serve, connect, gated):
    answer, gate = gated
    server = await serve(answer)
    client = await connect(max_connections=1)

    async with holding_the_only_connection(client, server) as held:
        woken = asyncio.create_task(client.post(server.url, content=BODY))
        behind = asyncio.create_task(client.post(server.url, content=BODY))
        await asyncio.sleep(0.01)
        held.add_done_callback(lambda _: woken.cancel())  # in the very turn of the loop that wakes it
        gate.set()
        async with asyncio.timeout(5):
            assert (await behind).text == "ok"

    with contextlib.suppress(asyncio.CancelledError):
        await woken


async def test_cancelling_a_request_under_way_frees_its_place_and_drops_its_connection(serve, connect):
    server = await serve(sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"))
    client = await connect(max_connections=1)

    for _ in range(3):
        task = asyncio.create_task(client.post(server.url, content=BODY))
        await server.arrivals.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert server.connections == 3


async def test_closing_a_stream_early_frees_its_place_and_drops_its_connection(serve, connect):
    server = await serve(sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 100_000))
    client = await connect(max_connections=1)

    for _ in range(3):
        async with client.stream("POST", server.url, content=BODY) as answer:
            async for _part in answer.aiter_raw():
                break

    assert server.connections == 3


async def test_closing_a_stream_twice_frees_one_place(serve):
    server = await serve(sending(OK))
    transport = AiohttpTransport(max_connections=1)
    request = httpx.Request("GET", server.url, extensions={"timeout": {"pool": 0.01}})

    first = await transport.handle_async_request(request)
    await first.stream.aclose()
    await first.stream.aclose()
    second = await transport.handle_async_request(request)
    with pytest.raises(httpx.PoolTimeout):
        await transport.handle_async_request(request)
    await second.aclose()
    await transport.aclose()


async def test_closing_the_transport_ends_what_is_under_way_with_an_error_of_httpxs(serve):
    server = await serve(sending())
    transport = AiohttpTransport()
    under_way = asyncio.create_task(transport.handle_async_request(httpx.Request("GET", server.url)))
    await server.arrivals.get()

    await transport.aclose()

    with pytest.raises(httpx.TransportError):
        await under_way
