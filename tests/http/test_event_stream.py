"""Server-sent events on real sockets: what a reader sees, and what is left behind."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.clock import SystemClock
from gateway.http.event_stream import RETRY_MS, Event, EventStream
from gateway.server import Listener, bind

REQUEST = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
SMALL = 4096
"""Bytes of a socket's buffer: the least that Linux gives."""


class HeldClock(SystemClock):
    """A clock that stands still until it is moved, and dice that fall as told."""

    def __init__(self, dice: float = 0.5) -> None:
        self.now = 1000.0
        self.dice = dice

    def monotonic(self) -> float:
        return self.now

    def random(self) -> float:
        return self.dice


class Source:
    """Where events come from: what the test puts in. It takes note of how often streams are closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self.opened = self.ended = self.closed = 0
        self.clock = HeldClock()
        self.draining = asyncio.Event()

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.queue.put_nowait(Event("session", id=str(number), data=f'{{"n": {number}}}'))

    async def events(self) -> AsyncIterator[Event]:
        self.opened += 1
        try:
            while (event := await self.queue.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            await asyncio.sleep(0)  # closing may have to wait for something
            self.ended += 1

    def stream(self, events: AsyncIterator[Event] | None = None, **seconds: float) -> EventStream:
        events = self.events() if events is None else events

        async def on_close() -> None:
            assert getattr(events, "ag_frame", None) is None, "the iterator is closed first"
            self.closed += 1

        return EventStream(events, clock=self.clock, draining=self.draining, on_close=on_close, **seconds)


class Reader:
    """A caller on a raw socket. `body` is what came so far, out of its chunks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.body = b""
        self.complete = False

    async def ask(self) -> bytes:
        """Send a request; return the head of its answer."""
        self._writer.write(REQUEST)
        self.body, self.complete = b"", False
        return await self._reader.readuntil(b"\r\n\r\n")

    async def read(self) -> bytes:
        """Read another chunk; return b"" at the end of the answer, complete or not."""
        try:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            chunk = (await self._reader.readexactly(size + 2))[:-2]
        except asyncio.IncompleteReadError:
            return b""
        self.body += chunk
        self.complete = size == 0
        return chunk

    async def read_all(self) -> bytes:
        while await self.read():
            pass
        return self.body

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


Connect = Callable[[], Awaitable[Reader]]


@asynccontextmanager
async def served(app: ASGIApp, *, buffer: int | None = None) -> AsyncIterator[tuple[Connect, Listener]]:
    """Serve `app` as the gateway does; a small `buffer` (bytes) makes slow readers felt soon."""
    sock = bind("127.0.0.1", 0)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    address = sock.getsockname()
    listener = Listener(app, sock, lifespan=False, grace=0)
    serving = asyncio.create_task(listener.run_until_stopped())
    readers: list[Reader] = []

    async def connect() -> Reader:
        own = socket.socket()
        own.setblocking(False)
        if buffer:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await asyncio.get_running_loop().sock_connect(own, address)
        readers.append(Reader(*await asyncio.open_connection(sock=own, limit=buffer or 2**16)))
        return readers[-1]

    while not listener.started:
        await asyncio.sleep(0.001)
    try:
        yield connect, listener
    finally:
        for reader in readers:
            await reader.close()
        listener.should_exit = True
        await serving
        await happens(lambda: not listener.server_state.tasks, "no request is under way")


def answering(make: Callable[[], Response]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await make()(scope, receive, send)

    return app


async def happens(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so, and fail by its name if it never is."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.002)
    pytest.fail(f"never happened: {what}")


async def silence() -> dict[str, object]:
    """Receive as from a reader that stays and says nothing."""
    await asyncio.Event().wait()
    raise AssertionError


def read_as_a_browser_does(stream: bytes) -> list[tuple[str, str, str]]:
    """Return name, id and data of each event, by the steps of WHATWG HTML §9.2.6."""
    found, name, identity, data = [], "", "", ""
    for line in re.split("\r\n|\n|\r", stream.decode())[:-1]:
        if not line:
            if data:
                found.append((name or "message", identity, data.removesuffix("\n")))
            name, data = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            identity = value
    return found


one_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))


@given(name=one_line.filter(bool), identity=one_line, data=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_browser_reads_what_was_written(name: str, identity: str, data: str) -> None:
    arrives = re.sub("\r\n|\r", "\n", data)
    assert read_as_a_browser_does(Event(name, identity, data).encode()) == [(name, identity, arrives)]


@given(st.lists(st.sampled_from(["a", " ", ":", "\r", "\n", "\r\n", "\u2028", "\x85", "\x0b", "data: "])))
def test_line_ends_within_data_make_no_other_field(parts: list[str]) -> None:
    data = "".join(parts)
    assert read_as_a_browser_does(Event("n", "1", data).encode()) == [("n", "1", re.sub("\r\n|\r", "\n", data))]


def test_an_event_is_written_as_the_standard_says() -> None:
    event = Event("session", id="7", data='{"a":\n"ü"}')
    assert event.encode() == 'event: session\nid: 7\ndata: {"a":\ndata: "ü"}\n\n'.encode()


@pytest.mark.parametrize(
    ("name", "identity"), [("a\nb", "1"), ("a\rb", "1"), ("a", "1\n"), ("a", "\r\n1"), ("a", "1\0")]
)
def test_a_name_or_an_id_that_would_break_the_stream_is_refused(name: str, identity: str) -> None:
    with pytest.raises(ValueError):
        Event(name, identity, "data")


async def test_events_come_in_order_and_the_stream_ends_with_them() -> None:
    source = Source()
    async with served(answering(source.stream)) as (connect, _):
        reader = await connect()
        head = (await reader.ask()).lower()
        for line in (
            b"content-type: text/event-stream; charset=utf-8",
            b"cache-control: no-store",
            b"x-accel-buffering: no",
            b"transfer-encoding: chunked",
        ):
            assert line + b"\r\n" in head
        assert head.startswith(b"http/1.1 200 ")
        assert b"content-length" not in head
        source.put(1)
        assert await reader.read() == b'event: session\nid: 1\ndata: {"n": 1}\n\n'  # at once: nothing is held back
        source.put(*range(2, 30))
        source.queue.put_nowait(None)
        await reader.read_all()
        assert reader.complete
        found = read_as_a_browser_does(reader.body)
        assert found == [("session", str(n), f'{{"n": {n}}}') for n in range(1, 30)]
        await happens(lambda: source.closed == 1, "it is closed")
        assert b"retry:" not in reader.body
        source.queue.put_nowait(None)
        assert b" 200 " in await reader.ask()  # the connection is as good as new
        await reader.read_all()
    assert (source.ended, source.closed) == (2, 2)


async def test_a_comment_breaks_the_silence_and_events_do_not_wait_for_it() -> None:
    source = Source()
    async with served(answering(lambda: source.stream(heartbeat=0.01))) as (connect, _):
        reader = await connect()
        await reader.ask()
        for _ in range(3):
            assert await reader.read() == b":\n\n"
        source.put(1)
        await happens_in(reader, b"id: 1\n")
        assert await reader.read() == b":\n\n"
        assert read_as_a_browser_does(reader.body) == [("session", "1", '{"n": 1}')]


async def happens_in(reader: Reader, text: bytes) -> None:
    while text not in reader.body:
        assert await reader.read()


@pytest.mark.parametrize(("dice", "milliseconds"), [(0.0, RETRY_MS[0]), (0.5, 3000), (0.9999, 4999)])
async def test_at_drain_it_ends_at_once_and_each_reader_is_told_another_time_to_come_back(
    dice: float, milliseconds: int
) -> None:
    source = Source()
    source.clock.dice = dice
    async with served(answering(source.stream)) as (connect, _):
        readers = [await connect() for _ in range(3)]
        for reader in readers:
            await reader.ask()
        await happens(lambda: source.opened == 3, "all are open")
        source.draining.set()
        for reader in readers:
            assert await reader.read_all() == f"retry: {milliseconds}\n\n".encode()
            assert reader.complete
        await happens(lambda: source.closed == 3, "all are closed")
        late = await connect()
        await late.ask()
        assert (await late.read_all()).startswith(b"retry: ")
    assert (source.opened, source.closed) == (3, 4)


async def test_events_without_end_do_not_hold_up_a_drain() -> None:
    source = Source()

    async def endless() -> AsyncIterator[Event]:
        while True:
            yield Event("tick", id="1", data="")

    async with served(answering(lambda: source.stream(endless()))) as (connect, _):
        reader = await connect()
        await reader.ask()
        await reader.read()
        source.draining.set()
        assert (await reader.read_all()).endswith(b"retry: 3000\n\n")
        assert reader.complete


async def test_it_lasts_half_an_hour_at_most() -> None:
    source = Source()
    async with served(answering(lambda: source.stream(heartbeat=0.005))) as (connect, _):
        reader = await connect()
        await reader.ask()
        source.clock.now += 1799
        for _ in range(3):
            assert await reader.read() == b":\n\n"
        source.clock.now += 1
        assert (await reader.read_all()).endswith(b"\n\nretry: 3000\n\n")
        assert reader.complete
        await happens(lambda: source.closed == 1, "it is closed")


async def test_its_time_ends_also_between_two_comments() -> None:
    source = Source()
    source.clock.monotonic = SystemClock().monotonic  # type: ignore[method-assign]
    async with served(answering(lambda: source.stream(heartbeat=3600, most_seconds=0.05))) as (connect, _):
        reader = await connect()
        await reader.ask()
        async with asyncio.timeout(10):
            assert (await reader.read_all()).endswith(b"retry: 3000\n\n")


async def test_a_reader_that_takes_nothing_is_dropped() -> None:
    source = Source()

    async def flood() -> AsyncIterator[Event]:
        while True:
            yield Event("session", id="1", data="x" * 16 * 1024)

    async with served(answering(lambda: source.stream(flood(), stall=0.2)), buffer=SMALL) as (connect, _):
        reader = await connect()
        await reader.ask()
        await happens(lambda: source.closed == 1, "it is dropped")
        await reader.read_all()
        assert len(reader.body) > 16 * 1024  # what was on its way
        assert not reader.complete
        patient = await connect()
        await patient.ask()
        for _ in range(50):
            assert await patient.read()
        assert source.closed == 1
    assert source.closed == 2


async def test_a_reader_that_hangs_up_ends_it_though_nothing_is_sent() -> None:
    source = Source()
    async with served(answering(source.stream)) as (connect, _):
        reader = await connect()
        await reader.ask()
        source.put(1)
        await reader.read()
        await reader.close()
        await happens(lambda: source.closed == 1, "it is closed")
        assert source.ended == 1


async def test_a_reader_may_send_a_body_and_hang_up_later() -> None:
    source, said = (
        Source(),
        iter([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]),
    )

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return next(said)

    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message["type"])

    await source.stream()({}, receive, send)
    assert sent == ["http.response.start"]
    assert next(said, None) is None
    assert source.closed == 1


async def test_a_server_that_cannot_send_ends_it() -> None:
    source = Source()

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    source.put(1)
    await source.stream()({}, silence, send)
    assert (source.ended, source.closed) == (1, 1)


async def test_a_server_that_stops_closes_everything() -> None:
    source = Source()
    async with served(answering(source.stream)) as (connect, listener):
        reader = await connect()
        await reader.ask()
        await happens(lambda: source.opened == 1, "it is open")
        listener.should_exit = True
        assert await reader.read_all() == b""
        assert not reader.complete
        await happens(lambda: source.closed == 1, "it is closed")


async def test_cancelled_it_closes_the_iterator_then_calls_on_close_and_leaves_no_task() -> None:
    source, before = Source(), asyncio.all_tasks()

    async def send(message: dict[str, object]) -> None:
        pass

    answering_task = asyncio.create_task(source.stream()({}, silence, send))
    await happens(lambda: source.opened == 1, "it is open")
    assert len(asyncio.all_tasks() - before) > 1
    answering_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering_task
    assert (source.ended, source.closed) == (1, 1)
    assert asyncio.all_tasks() == before


async def test_what_the_iterator_raises_is_not_lost_and_the_answer_is_cut_off() -> None:
    source, raised = Source(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await source.stream()(scope, receive, send)
        except OSError as error:  # as of a client, but it is the iterator's
            raised.append(str(error))

    async with served(app) as (connect, _):
        reader = await connect()
        await reader.ask()
        source.put(1)
        source.queue.put_nowait(ConnectionError("of the source"))
        assert (await reader.read_all()).endswith(b"\n\n")
        assert not reader.complete
        await happens(lambda: raised == ["of the source"], "it is told")
    assert (source.ended, source.closed) == (1, 1)


async def test_an_iterator_that_cannot_be_closed_will_do() -> None:
    class Two:
        left = 2

        def __aiter__(self) -> "Two":
            return self

        async def __anext__(self) -> Event:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return Event("n", id=str(self.left), data="")

    source = Source()
    async with served(answering(lambda: source.stream(Two()))) as (connect, _):
        reader = await connect()
        await reader.ask()
        await reader.read_all()
        assert read_as_a_browser_does(reader.body) == [("n", "1", ""), ("n", "0", "")]
    assert source.closed == 1


async def test_head_is_answered_with_the_headers_alone() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await EventStream.headers_only()({**scope, "method": "HEAD"}, receive, send)

    async with served(app) as (connect, _):
        head = (await (await connect()).ask()).lower()
        assert b"content-type: text/event-stream; charset=utf-8\r\n" in head
        assert b"content-length" not in head


async def test_thousands_of_streams_leave_nothing_behind() -> None:
    source, at_once = Source(), 100
    async with served(answering(source.stream)) as (connect, listener):
        before = asyncio.all_tasks()
        for number in range(1, 21):
            readers = [await connect() for _ in range(at_once)]
            for reader in readers:
                await reader.ask()
            await happens(lambda all_of_them=number * at_once: source.opened == all_of_them, "all are open")
            if number % 4 == 0:
                source.draining.set()
                for reader in readers:
                    await reader.read_all()
                    assert reader.complete
                source.draining.clear()
            for reader in readers:
                await reader.close()
            await happens(lambda: source.closed == source.opened, "all are closed")
        await happens(lambda: not listener.server_state.connections, "no connection is left")
        assert source.closed == source.ended == 2000
        await happens(lambda: asyncio.all_tasks() == before, "no task is left")
