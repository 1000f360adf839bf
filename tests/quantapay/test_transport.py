"""The transport over real sockets: small servers that answer, or misbehave, byte by byte."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import Counter

import pytest

from gateway.errors import UpstreamError, UpstreamInvalidResponse, UpstreamUnavailable
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.connection import MOST_BYTES
from gateway.quantapay.transport import HttpTransport

KEY = "CanaryKeyInTheBody"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PATIENCE = 10


def post(body):
    return b"POST /api.php HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


REQUEST = post(f"function=get-balances&api-key={KEY}".encode())
LONG_REQUEST = post(b"x" * 30_000_000)
"""More than all buffers between us and a server that does not read."""

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


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    """Both loops: uvloop is the one in production, and they differ in when they read and what they raise."""
    return "asyncio", {"use_uvloop": request.param}


class Server:
    """A TCP server that hands each request's head and body to a coroutine, which answers as it likes."""

    def __init__(self, answer, *, url):
        self.requests = []
        self.came_by = []
        """For each request the number of its connection, from 1 on."""
        self.arrivals = asyncio.Queue()
        self.departures = asyncio.Queue()
        """Of connections that the other side closed."""
        self.connections = 0
        self.url = url
        self._answer = answer

    async def handle(self, reader, writer):
        self.connections += 1
        number = self.connections
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(content_length(head)))
                self.came_by.append(number)
                self.arrivals.put_nowait(None)
                await self._answer(writer, len(self.requests))
        self.departures.put_nowait(None)
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


def flooding(begun, filler):
    """Answer with what never ends."""

    async def answer(writer, _number):
        writer.write(begun)
        while True:
            writer.write(filler * (16384 // len(filler)))
            await writer.drain()

    return answer


def reset(writer):
    linger_not = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
    writer.transport.abort()


@pytest.fixture
async def serve():
    """Start servers on free ports of 127.0.0.1 and close them with their connections."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(answer=None, *, raw=None, tls=None, scheme=None, host="127.0.0.1"):
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

            listener = await asyncio.start_server(accept, host, 0, ssl=tls)
            port = listener.sockets[0].getsockname()[1]
            server = Server(answer, url=f"{scheme or ('https' if tls else 'http')}://{host}:{port}/api.php")

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
    """Make transports to an address, and close them."""
    async with contextlib.AsyncExitStack() as stack:

        def make(url, *, connect_seconds=PATIENCE, **options):
            transport = HttpTransport(url, connect_seconds=connect_seconds, **options)
            stack.push_async_callback(transport.close)
            return transport

        yield make


async def send(transport, request=REQUEST):
    async with asyncio.timeout(PATIENCE):
        return await transport.exchange(request, Attempt())


async def failing(transport, expected, request=REQUEST):
    """Send what must fail with exactly this error, which gives nothing away; return how far it got."""
    attempt = Attempt()
    with pytest.raises(UpstreamError) as failed:
        async with asyncio.timeout(PATIENCE):
            await transport.exchange(request, attempt)
    assert type(failed.value) is expected
    assert attempt.sent is (expected is UpstreamInvalidResponse)
    fault = failed.value
    while fault is not None:
        for secret in (KEY, "garbage"):
            assert secret not in f"{fault} {fault!r} {fault.args} {vars(fault)}"
        fault = fault.__cause__ or fault.__context__
    return attempt


# What is sent and received


async def test_a_request_arrives_once_as_it_was_written(serve, connect):
    server = await serve(sending(OK))
    sent = []
    attempt = Attempt(on_sent=lambda: sent.append(len(server.requests)))

    reply = await connect(server.url).exchange(REQUEST, attempt)

    assert (reply.status, reply.body) == (200, b"ok")
    assert server.requests == [REQUEST]
    assert (attempt.sent, attempt.status, sent) == (True, 200, [0])


async def test_status_headers_and_body_come_as_the_server_sent_them(serve, connect):
    packed = b"\x1f\x8b not really gzip"
    head = b"HTTP/1.0 418 Short and stout\r\nX-A: 1\r\nx-a:2\r\nX-B: \xe9\r\nContent-Encoding: gzip\r\n\r\n"
    server = await serve(sending(head + packed[:5], packed[5:], then="close"))

    reply = await send(connect(server.url))

    assert reply.status == 418
    assert reply.headers == {"x-a": "2", "x-b": "\xe9", "content-encoding": "gzip"}
    assert reply.body == packed


@pytest.mark.parametrize(
    ("parts", "status", "body"),
    [
        ([CHUNKED + b"2\r\nok\r\n", b"1;a=b\r\n!\r\n0\r\n\r\n"], 200, b"ok!"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK], 200, b"ok"),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-A: 1\r\n\r\n" + OK], 200, b"ok"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"], 304, b""),
        # What an Apache says that knows HTTP/2.
        ([b"HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\nContent-Length: 2\r\n\r\nok"], 200, b"ok"),
        ([b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"], 200, b"ok"),
    ],
    ids=["chunked", "100", "103", "204", "304", "upgrade offered", "HTTP/1.0 that keeps"],
)  # fmt: skip
async def test_an_answer_that_says_where_it_ends_gives_its_connection_back(serve, connect, parts, status, body):
    server = await serve(sending(*parts))
    transport = connect(server.url)

    for _ in range(3):
        reply = await send(transport)
        assert (reply.status, reply.body) == (status, body)
        assert "x-a" not in reply.headers, "of an interim answer"

    assert server.requests == [REQUEST] * 3, "nothing is followed or remembered"
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: Upgrade, close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["length", "chunked", "HTTP/1.0"],
)
async def test_a_connection_that_is_to_be_closed_is_closed_by_us_and_not_used_again(serve, connect, answer):
    server = await serve(sending(answer))
    transport = connect(server.url)

    for _ in range(2):
        assert (await send(transport)).body == b"ok"
        async with asyncio.timeout(PATIENCE):
            await server.departures.get()

    assert server.connections == 2


async def test_trailers_override_no_header_of_this_answer_or_the_next(serve, connect):
    async def answer(writer, number):
        trailed = b"HTTP/1.1 200 OK\r\nDate: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nDate: 2\r\nX-A: 3\r\n\r\n"
        writer.write(trailed if number == 1 else OK)

    server = await serve(answer)
    transport = connect(server.url)

    assert (await send(transport)).headers == {"date": "1", "transfer-encoding": "chunked"}
    assert (await send(transport)).headers == {"content-length": "2"}
    assert server.connections == 1


async def test_redirects_are_answers_and_cookies_are_forgotten(serve, connect):
    server = await serve(
        sending(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    )
    transport = connect(server.url)

    assert [(await send(transport)).status for _ in range(2)] == [302, 302]
    assert server.requests == [REQUEST, REQUEST]


async def test_proxies_of_the_environment_are_not_asked(serve, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server = await serve(sending(OK))

    assert (await send(connect(server.url))).body == b"ok"


# Which connection


async def test_connections_are_reused_until_they_have_been_idle_too_long(serve, connect):
    server = await serve(sending(OK))
    keeping, dropping = connect(server.url), connect(server.url, keep_seconds=0)

    for transport in (keeping, keeping, dropping, dropping):
        await send(transport)

    assert server.came_by == [1, 1, 2, 3]
    async with asyncio.timeout(PATIENCE):
        for _ in range(2):
            await server.departures.get()  # both too old ones: they are not only forgotten


async def test_a_connection_that_became_too_old_since_anything_was_sent_is_replaced(serve, connect):
    server = await serve(sending(OK))
    transport = connect(server.url, keep_seconds=0.02)

    for _ in range(2):
        await send(transport)
        await asyncio.sleep(0.03)

    assert server.came_by == [1, 2]


async def test_the_connection_that_was_used_last_is_used_next(serve, connect):
    gates = {1: asyncio.Event(), 2: asyncio.Event()}

    async def answer(writer, number):
        if number in gates:
            await gates[number].wait()
        writer.write(OK)

    server = await serve(answer)
    transport = connect(server.url)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(send(transport))
            await server.arrivals.get()
        gates[2].set()
        await asyncio.sleep(0.01)
        gates[1].set()

    for _ in range(3):
        await send(transport)

    assert server.came_by == [1, 2, 1, 1, 1]


async def test_a_transport_that_was_never_used_closes():
    await HttpTransport("https://127.0.0.1/", connect_seconds=1).close()


# What is never sent twice


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_request_lost_on_a_kept_connection_is_sent_exactly_once(serve, connect, then):
    async def answer(writer, number):
        await sending(OK)(writer, number) if number == 1 else await sending(then=then)(writer, number)

    server = await serve(answer)
    transport = connect(server.url)
    await send(transport)

    await failing(transport, UpstreamInvalidResponse)

    assert len(server.requests) == 2
    assert server.connections == 1


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
async def test_a_connection_the_server_closed_while_idle_is_replaced_unnoticed(serve, connect, tls, over_tls):
    closed = asyncio.Event()

    async def answer(writer, _number):
        writer.write(OK)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await serve(answer, tls=tls.server if over_tls else None)
    transport = connect(server.url, ssl_context=tls.client)

    for _ in range(3):
        closed.clear()
        assert (await send(transport)).body == b"ok"
        await closed.wait()
        await asyncio.sleep(0.01)  # for the closing to cross the loopback

    assert server.connections == 3


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
async def test_a_connection_is_not_used_again_from_the_moment_we_hear_of_its_end(serve, connect, tls, over_tls):
    """Between that and `connection_lost` the loop turns, and what is written is thrown away."""
    hang_up = asyncio.Event()

    async def answer(writer, number):
        writer.write(OK)
        await writer.drain()
        if number == 1:
            await hang_up.wait()
            writer.close()

    server = await serve(answer, tls=tls.server if over_tls else None)
    transport = connect(server.url, ssl_context=tls.client)
    await send(transport)
    [connection] = transport._idle
    heard = asyncio.get_running_loop().create_future()

    def eof_received():
        heard.set_result(asyncio.create_task(send(transport)))
        return type(connection).eof_received(connection)

    connection.eof_received = eof_received
    hang_up.set()

    assert (await (await heard)).body == b"ok"
    assert server.came_by == [1, 2]


@pytest.mark.parametrize("when", ["with the answer", "while idle"])
async def test_an_answer_that_nobody_asked_for_is_never_taken_for_the_next_ones(serve, connect, when):
    unasked = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    told = asyncio.Event()

    async def answer(writer, number):
        wanted = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number
        if when == "while idle":
            writer.write(wanted)
            await writer.drain()
            await told.wait()
            writer.write(unasked)
        else:
            writer.write(wanted + unasked)
        await writer.drain()

    server = await serve(answer)
    transport = connect(server.url)

    for number in (1, 2, 3):
        told.clear()
        assert (await send(transport)).body == b"%d" % number
        told.set()
        await asyncio.sleep(0.01)  # for the unasked to cross the loopback

    assert server.connections == 3


async def test_a_server_that_speaks_first_is_not_asked_for_connections_without_end(serve, connect):
    connections = 0

    async def refuse(_reader, writer):
        nonlocal connections
        connections += 1
        writer.write(b"HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    transport = connect((await serve(raw=refuse)).url)
    # Which of them depends on when its word arrives.
    with contextlib.suppress(UpstreamUnavailable, UpstreamInvalidResponse):
        assert (await send(transport)).status == 503
    assert connections == 1


async def test_to_a_server_that_has_spoken_already_nothing_is_sent(serve, connect):
    async def full(_reader, writer):
        writer.write(b"HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n")
        await asyncio.Event().wait()

    transport = connect((await serve(raw=full)).url)
    open_at_once = transport._open

    async def open_and_wait():
        connection = await open_at_once()
        await asyncio.sleep(0.01)  # for its word to cross the loopback
        return connection

    transport._open = open_and_wait

    await failing(transport, UpstreamUnavailable)


# Errors: before anything was sent


@pytest.fixture
def unused_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]  # bound and not listening: surely refused


@pytest.mark.parametrize("address", ["http://127.0.0.1", "https://127.0.0.1", "http://127.1", "http://localhost"])
async def test_a_refused_connection_is_unavailable(connect, unused_port, address):
    await failing(connect(f"{address}:{unused_port}/"), UpstreamUnavailable)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid"])
async def test_a_name_that_does_not_exist_or_that_no_resolver_takes_is_unavailable(connect, host):
    await failing(connect(f"http://{host}/"), UpstreamUnavailable)


async def test_what_uvloop_raises_as_a_runtime_error_is_unavailable(connect, unused_port, monkeypatch):
    async def start_connection(*_args, **_options):
        raise RuntimeError("garbage")  # as `aiohappyeyeballs` hands it on

    monkeypatch.setattr("gateway.quantapay.transport.start_connection", start_connection)

    await failing(connect(f"http://127.0.0.1:{unused_port}/"), UpstreamUnavailable)


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["plain server", "hangs up"])
async def test_a_server_that_does_not_speak_tls_is_unavailable(serve, connect, says):
    async def raw(reader, writer):
        await reader.read(100)
        writer.write(says)
        writer.close()

    server = await serve(raw=raw, scheme="https")

    await failing(connect(server.url), UpstreamUnavailable)


class Tls:
    """Both sides' contexts, of which the client's trusts the server's."""

    def __init__(self, certificate):
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.load_cert_chain(certificate)
        self.client = ssl.create_default_context(cafile=certificate)


@pytest.fixture
def tls(tmp_path):
    path = tmp_path / "localhost.pem"
    path.write_text(CERTIFICATE)
    return Tls(path)


async def test_a_certificate_nobody_vouches_for_is_unavailable_unless_it_was_handed_in(serve, connect, tls):
    server = await serve(sending(OK), tls=tls.server)

    await failing(connect(server.url), UpstreamUnavailable)
    assert server.requests == []

    trusting = connect(server.url, ssl_context=tls.client)
    assert [(await send(trusting)).body for _ in range(2)] == [b"ok"] * 2
    assert (server.requests, server.came_by) == ([REQUEST] * 2, [1, 1])


async def test_a_certificate_of_another_name_is_unavailable(serve, connect, tls):
    server = await serve(sending(OK), tls=tls.server, host="127.0.0.2")

    await failing(connect(server.url, ssl_context=tls.client), UpstreamUnavailable)
    assert server.requests == []


async def test_of_the_addresses_of_a_name_one_that_answers_is_used(serve, connect, tls):
    server = await serve(sending(OK), tls=tls.server)  # at 127.0.0.1, and nobody at ::1

    reply = await send(connect(server.url.replace("127.0.0.1", "localhost"), ssl_context=tls.client))

    assert reply.body == b"ok"


@pytest.fixture
def silent_port():
    """A port where the system takes connections and nobody ever says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("seconds", [0.05, 0])
async def test_a_handshake_that_never_ends_is_unavailable_in_time(connect, silent_port, seconds):
    transport = connect(f"https://127.0.0.1:{silent_port}/", connect_seconds=seconds, most_connections=1)

    for _ in range(2):  # the place came back
        await failing(transport, UpstreamUnavailable)


# Errors: after sending began


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (sending(then="close"), None),
        (sending(then="reset"), None),
        (sending(b"HTTP/1.1 200 OK\r\nX: gar", then="close"), None),
        (sending(b"garbage\r\n\r\n"), None),
        (sending(b"HTTP/1.1 garbage\r\n\r\n"), None),
        (sending(b"\x15\x03\x01\x00\x02\x02\x46" * 9), None),
        (sending(b"HTTP/1.1 103 Early Hints\r\nX: garbage\r\n\r\n", then="close"), None),
        (sending(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\ngarbage"), None),
        (sending(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK), None),
        (sending(b"HTTP/1.1 206 OK\r\nContent-Length: 9\r\n\r\nok", then="close"), 206),
        (sending(b"HTTP/1.1 206 OK\r\nContent-Length: 9\r\n\r\nok", then="reset"), 206),
        (sending(b"HTTP/1.1 206 OK\r\n\r\nok", then="reset"), 206),
        (sending(b"HTTP/1.1 200 OK\r\nContent-Length: garbage\r\n\r\n"), None),
        (sending(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), None),
        (sending(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n")), None),
        (sending(OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")), None),
        (sending(CHUNKED + b"garbage\r\n"), 200),
        (sending(CHUNKED + b"9\r\nok", then="close"), 200),
        (sending(CHUNKED + b"2\r\nok\r\n", then="close"), 200),
        (sending(OK.replace(b"\r\n\r\n", b"\r\nX: " + b"a" * 66_000 + b"\r\n\r\n")), 200),
        (sending(OK.replace(b"\r\n\r\n", b"\r\n" + b"X: a\r\n" * 11_000 + b"\r\n")), 200),
        (flooding(b"HTTP/1.1 200 OK\r\nX: ", b"a"), None),
        (flooding(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n"), None),
        (flooding(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), None),
        (flooding(CHUNKED + b"0\r\n", b"X: a\r\n"), 200),
        (flooding(CHUNKED + b"2;", b"a"), 200),
        (flooding(CHUNKED, b"1\r\na\r\n"), 200),
        (flooding(CHUNKED, b"100\r\n" + b"a" * 256 + b"\r\n"), 200),
        (flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"a"), 200),
    ],
    ids=[
        "closed", "reset", "head cut off", "garbage", "garbage status", "TLS alert", "only a hint", "101",
        "101 to nothing", "body cut off", "body reset", "body without length reset", "garbage length", "two lengths",
        "length and chunked", "chunked and length", "bad chunk", "chunk cut off", "no last chunk", "header too long",
        "too many headers", "endless header", "endless headers", "endless 100", "endless trailers",
        "endless extension", "tiny chunks", "endless chunks", "endless body",
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_an_error_after_sending(serve, connect, answer, status):
    server = await serve(answer)
    transport = connect(server.url, most_connections=1)

    for _ in range(2):  # the place came back
        attempt = await failing(transport, UpstreamInvalidResponse)
        assert attempt.status == status

    assert len(server.requests) == server.connections == 2


@pytest.mark.parametrize("surplus", [0, 1])
@pytest.mark.parametrize(
    ("begun", "ended"),
    [(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", b""), (CHUNKED + b"%x\r\n", b"\r\n0\r\n\r\n")],
    ids=["length", "chunked"],
)
async def test_four_mebibytes_are_read_and_not_a_byte_more(serve, connect, begun, ended, surplus):
    """The last piece is small, so that all that came before it is within the limit."""
    length = MOST_BYTES + surplus
    server = await serve(sending(begun % length, b"a" * (length - 3), b"bcd" + ended))
    transport = connect(server.url)

    if surplus:
        await failing(transport, UpstreamInvalidResponse)
    else:
        assert (await send(transport)).body == b"a" * (MOST_BYTES - 3) + b"bcd"
        await send(transport)
        assert server.connections == 1


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "TLS"])
async def test_an_answer_before_the_whole_request_was_sent_is_still_the_answer_and_the_last_there(
    serve, connect, tls, over_tls
):
    async def raw(reader, writer):
        server.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        writer.transport.pause_reading()
        await asyncio.Event().wait()

    server = await serve(raw=raw, tls=tls.server if over_tls else None)
    transport = connect(server.url, most_connections=1, ssl_context=tls.client)

    for _ in range(2):
        reply = await send(transport, LONG_REQUEST)
        assert (reply.status, reply.body) == (413, b"no")
    assert server.connections == 2


# Places


@contextlib.asynccontextmanager
async def holding_the_only_connection(transport, server):
    """Keep one request waiting for its answer."""
    held = asyncio.create_task(send(transport))
    await server.arrivals.get()
    yield held
    held.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await held


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
    transport = connect(server.url, most_connections=1)

    async with holding_the_only_connection(transport, server) as held:
        waiting = [asyncio.create_task(send(transport)) for _ in range(50)]
        await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        gate.set()
        assert (await held).body == b"ok"

    assert Counter(map(type, outcomes)) == {asyncio.CancelledError: 50}
    assert (await send(transport)).body == b"ok"
    assert len(server.requests) == 2


async def test_cancelling_the_request_whose_turn_just_came_wakes_the_next(serve, connect, gated):
    answer, gate = gated
    server = await serve(answer)
    transport = connect(server.url, most_connections=1)

    async with holding_the_only_connection(transport, server) as held:
        woken = asyncio.create_task(send(transport))
        behind = asyncio.create_task(send(transport))
        await asyncio.sleep(0.01)
        held.add_done_callback(lambda _: woken.cancel())  # in the very turn of the loop that wakes it
        gate.set()
        async with asyncio.timeout(5):
            assert (await behind).body == b"ok"

    with contextlib.suppress(asyncio.CancelledError):
        await woken


@pytest.mark.parametrize(
    "begun",
    [
        b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    ],
)  # fmt: skip
async def test_cancelling_a_request_under_way_frees_its_place_and_drops_its_connection(serve, connect, begun):
    server = await serve(sending(begun))
    transport = connect(server.url, most_connections=1)

    for _ in range(3):
        task = asyncio.create_task(send(transport))
        await server.arrivals.get()
        await asyncio.sleep(0.01)  # for the answer to cross the loopback
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(PATIENCE):
            await server.departures.get()

    assert server.came_by == [1, 2, 3]


async def test_cancelling_in_the_turn_that_brings_the_answer_keeps_no_connection_and_no_answer(serve, connect, gated):
    answer, gate = gated
    server = await serve(answer)
    transport = connect(server.url, most_connections=1)

    task = asyncio.create_task(send(transport))
    await server.arrivals.get()
    [connection] = transport._busy

    def finish():
        type(connection)._finish(connection)
        task.cancel()

    connection._finish = finish
    gate.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await send(transport)).body == b"ok"
    assert server.came_by == [1, 2]


async def test_cancelling_while_it_connects_leaves_no_socket_and_frees_the_place(serve, connect):
    greeted, left = asyncio.Queue(), asyncio.Queue()

    async def raw(reader, _writer):
        greeted.put_nowait(await reader.read(100))
        with contextlib.suppress(ConnectionError):
            while await reader.read(100):
                pass
        left.put_nowait(None)

    transport = connect((await serve(raw=raw, scheme="https")).url, most_connections=1)

    for _ in range(3):
        task = asyncio.create_task(send(transport))
        async with asyncio.timeout(PATIENCE):
            await greeted.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(PATIENCE):
            await left.get()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n\r\nhalf of an answer without a length"])
async def test_closing_the_transport_ends_what_is_under_way_with_an_error(serve, connect, begun):
    server = await serve(sending(begun))
    transport = connect(server.url)
    under_way = asyncio.create_task(failing(transport, UpstreamInvalidResponse))
    await server.arrivals.get()
    await asyncio.sleep(0.01)  # for the answer to cross the loopback

    await transport.close()

    await under_way
    async with asyncio.timeout(PATIENCE):
        await server.departures.get()


async def test_closing_the_transport_closes_what_is_idle(serve, connect):
    server = await serve(sending(OK))
    transport = connect(server.url)
    await send(transport)
    assert not transport._busy, "or all that ever was would be kept"

    await transport.close()

    async with asyncio.timeout(PATIENCE):
        await server.departures.get()


async def test_a_connection_that_is_made_while_the_transport_closes_is_not_used(serve, connect):
    server = await serve(sending(OK))
    transport = connect(server.url)

    async def open_and_be_closed(opened=transport._open):
        connection = await opened()
        await transport.close()
        return connection

    transport._open = open_and_be_closed
    await failing(transport, UpstreamUnavailable)
    assert server.requests == []
