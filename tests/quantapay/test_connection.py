"""A connection without a socket: whatever arrives, and however it is cut, is one answer, a failure or not yet either."""

import asyncio
import itertools
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamInvalidResponse
from gateway.quantapay import connection as connection_module
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.connection import MOST_BYTES, MOST_FRAMING, Connection
from gateway.quantapay.reply import Reply

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
PIECE = 65536
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """Takes what is written, and tells of its end in a turn of the loop of its own, as a socket does."""

    def __init__(self, connection):
        super().__init__()
        self.written = []
        self.is_aborted = False
        self._connection = connection

    def write(self, data):
        self.written.append(data)

    def abort(self):
        if not self.is_aborted:
            self.is_aborted = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def get_write_buffer_size(self):
        return 0


def connected():
    connection = Connection()
    wire = Wire(connection)
    connection.connection_made(wire)
    return connection, wire


def pieces(data, cuts):
    """Cut data at these places, which may be beyond its end."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


# What is an answer

names = st.text("abcdefgh", min_size=1, max_size=8).map(lambda name: f"X-{name}")
values = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
headers = st.lists(st.tuples(names, values), max_size=3)


def head(status, fields):
    lines = [f"HTTP/1.1 {status} So be it", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


@st.composite
def answers(draw):
    """An answer after which the connection may be used again, as bytes, and what is to be read from it."""
    interim = draw(st.lists(st.tuples(st.sampled_from([100, 102, 103]), headers), max_size=2))
    status = draw(st.sampled_from([200, 206, 302, 404, 429, 500, 503]))
    body = draw(st.binary(max_size=60))
    fields = draw(headers)
    at = draw(st.integers(0, len(fields)))
    if draw(st.booleans()):
        fields.insert(at, ("Content-Length", str(len(body))))
        content = body
    else:
        fields.insert(at, ("Transfer-Encoding", "chunked"))
        extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
        chunks = pieces(body, draw(st.lists(st.integers(0, 60), max_size=3))) if body else []
        content = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        content += head("", draw(headers)).replace(b"HTTP/1.1  So be it", b"0" + extension)  # with trailers
    before = b"".join(head(*one) for one in interim)
    reply = Reply(status, {name.lower(): value for name, value in fields}, body)
    return before + head(status, fields) + content, reply


@given(st.lists(st.tuples(answers(), st.one_of(st.none(), st.lists(st.integers(1, 400), max_size=8))), max_size=4))
async def test_however_answers_are_cut_into_pieces_they_are_the_same(asked):
    connection, wire = connected()
    for (data, expected), cuts in asked:
        attempt = Attempt()
        answer = connection.ask(REQUEST, attempt)
        *parts, last = pieces(data, range(len(data)) if cuts is None else cuts)
        for part in parts:
            connection.data_received(part)
            assert not answer.done()
        connection.data_received(last)
        assert answer.result() == expected
        assert attempt.status == expected.status
        assert connection.is_open
    assert wire.written == [REQUEST] * len(asked)


@given(st.binary(max_size=60), st.lists(st.integers(1, 100), max_size=8), st.sampled_from(["1.0", "1.1"]))
async def test_an_answer_without_a_length_is_whole_exactly_if_the_server_ended_it_in_good_order(body, cuts, version):
    for reason, is_whole in ((None, True), (ConnectionResetError(), False)):
        connection, wire = connected()
        answer = connection.ask(REQUEST, Attempt())
        for part in pieces(b"HTTP/%b 200 OK\r\n\r\n%b" % (version.encode(), body), cuts):
            connection.data_received(part)
        assert not answer.done()
        connection.eof_received()
        assert not connection.is_open
        connection.connection_lost(reason)
        if is_whole:
            assert answer.result() == Reply(200, {}, body)
        else:
            assert isinstance(answer.exception(), UpstreamInvalidResponse)
        assert wire.is_aborted


# What may be anything

FRAGMENTS = [
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 So", b"HTTP/1.1 204 No", b"HTTP/",
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"Content-Length: ", b"Transfer-Encoding: chunked", b"Connection: close",
    b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3\r\n\r\n", b"5", b"0", b"3\r\nabc\r\n", b"0\r\n\r\n", b":", b";",
    b"X: y\r\n", b" ", b"\0", b"a" * 30, CHUNKED,
]  # fmt: skip
anything = st.lists(st.one_of(st.binary(max_size=8), st.sampled_from(FRAGMENTS)), max_size=30)


@given(anything, st.sets(st.integers(1, 400), max_size=10), st.sampled_from([None, ConnectionResetError()]))
async def test_whatever_arrives_is_an_answer_a_failure_or_not_yet_either_and_never_too_much(fragments, cuts, reason):
    most_bytes, most_framing = 20, 150
    connection, wire = connected()
    with (
        patch.object(connection_module, "MOST_BYTES", most_bytes),
        patch.object(connection_module, "MOST_FRAMING", most_framing),
    ):
        answer = connection.ask(REQUEST, Attempt())
        for part in pieces(b"".join(fragments), cuts):
            connection.data_received(part)
            assert sum(map(len, connection._body)) <= most_bytes
            assert not (connection.is_open and wire.is_aborted)
            if not answer.done():
                assert not wire.is_aborted, "nobody would ever hear of it"
        if connection.is_open and answer.done():
            assert isinstance(answer.result(), Reply)
        connection.connection_lost(reason)
    assert answer.done()
    failure = answer.exception()
    if failure is None:
        assert answer.result().status >= 200
        assert len(answer.result().body) <= most_bytes
    else:
        assert type(failure) is UpstreamInvalidResponse
        assert failure.__context__ is failure.__cause__ is None
    assert wire.is_aborted
    assert wire.written == [REQUEST]


# How much is read


@pytest.mark.parametrize(
    ("begun", "filler"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: ", b"0"),
        (b"HTTP/1.1 200 OK\r\n", b"X: a\r\n"),
        (b"HTTP/1.1 200 ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 199 No\r\nContent-Length: 100\r\n\r\n" + b"a" * 100),
        (b"", b"\r\n"),
        (CHUNKED + b"0\r\n", b"X: a\r\n"),
        (CHUNKED + b"2;", b"a"),
        (CHUNKED, b"0"),
        (CHUNKED, b"1\r\na\r\n"),
    ],
    ids=[
        "header", "length", "headers", "reason", "100", "199", "blank lines", "trailers", "extension", "chunk length",
        "tiny chunks",
    ],
)  # fmt: skip
async def test_of_what_is_no_body_little_over_64_kib_are_read(begun, filler):
    connection, wire = connected()
    answer = connection.ask(REQUEST, Attempt())
    connection.data_received(begun)
    piece = filler * (PIECE // len(filler))
    read = 0
    while not wire.is_aborted:
        connection.data_received(piece)
        read += len(piece)
        assert read < 2 * MOST_FRAMING + PIECE
    assert isinstance(answer.exception(), UpstreamInvalidResponse)


@pytest.mark.parametrize("size", [MOST_FRAMING, MOST_FRAMING + 1])
@pytest.mark.parametrize("cuts", [[], [100], [MOST_FRAMING - 1]], ids=["whole", "cut early", "cut late"])
async def test_a_head_of_64_kib_is_taken_and_not_a_byte_more_however_it_is_cut(size, cuts):
    begun, ended = b"HTTP/1.1 200 OK\r\nX: ", b"\r\nContent-Length: 0\r\n\r\n"
    data = begun + b"a" * (size - len(begun) - len(ended)) + ended
    connection, _ = connected()
    answer = connection.ask(REQUEST, Attempt())
    for part in pieces(data, cuts):
        connection.data_received(part)
    assert (answer.exception() is None) is connection.is_open is (size == MOST_FRAMING)


async def test_a_long_body_may_come_in_small_chunks():
    connection, wire = connected()
    answer = connection.ask(REQUEST, Attempt())
    connection.data_received(CHUNKED)
    for _ in range(100):
        connection.data_received(b"8\r\nabcdefgh\r\n" * 1000)
    connection.data_received(b"0\r\n\r\n")
    assert len((await answer).body) == 800_000
    assert not wire.is_aborted


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nX: one\r\n two\r\nContent-Length: 2\r\n\r\nok",
        CHUNKED + b"2 \r\nok\r\n0\r\n\r\n",
    ],
    ids=["bare line feeds", "folded header", "blank after a chunk's length"],
)
async def test_what_a_recipient_may_bear_with_is_read(data):
    connection, _ = connected()
    answer = connection.ask(REQUEST, Attempt())
    connection.data_received(data)
    assert (await answer).body == b"ok"
    assert connection.is_open


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b" " * PIECE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n", b" " * PIECE),
        (CHUNKED, b"10000\r\n" + b" " * PIECE + b"\r\n"),
    ],
    ids=["endless", "length", "chunked"],
)
async def test_an_answer_over_four_mebibytes_is_not_read_to_its_end(begun, piece):
    connection, wire = connected()
    attempt = Attempt()
    answer = connection.ask(REQUEST, attempt)
    connection.data_received(begun)
    read = 0
    while not wire.is_aborted:
        connection.data_received(piece)
        read += 1
    assert read == MOST_BYTES // PIECE + 1
    assert str(answer.exception()) == "QuantaPay's answer is over 4 MiB."
    assert (attempt.sent, attempt.status) == (True, 200)


async def test_an_idle_connection_holds_no_answer():
    connection, _ = connected()
    connection.ask(REQUEST, Attempt())
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert connection.is_open
    assert connection._body == []


@pytest.mark.parametrize("unasked", [b"H", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\0"])
async def test_what_comes_while_nothing_is_asked_closes_the_connection(unasked):
    connection, wire = connected()
    connection.data_received(unasked)
    assert not connection.is_open
    assert wire.is_aborted
