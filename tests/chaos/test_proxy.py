"""The proxy that the chaos suite stands on: it must break exactly what it was told to, and nothing else."""

import os
import socket
import socketserver
import struct
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.plugins.chaos_faults import Kind
from tests.plugins.chaos_proxy import ChaosProxy
from tests.plugins.processes import free_port, until

SHORT = 0.2
"""Seconds in which nothing must come, or after which something may."""


class Echo(socketserver.ThreadingTCPServer):
    """Answers what it gets, behind its own name."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, name: bytes = b"") -> None:
        self.name = name
        self.received = b""
        self.ends: list[str] = []
        super().__init__(("127.0.0.1", 0), _EchoHandler)
        self.url = f"tcp://127.0.0.1:{self.server_address[1]}"


class _EchoHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server: Echo = self.server
        try:
            while chunk := self.request.recv(65536):
                server.received += chunk
                if chunk == b"reset me":
                    self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.request.close()
                    return
                if chunk == b"bye":
                    return
                self.request.sendall(server.name + chunk)
        except ConnectionError:
            server.ends.append("reset")
        else:
            server.ends.append("fin")


@contextmanager
def echoing(name: bytes = b""):
    with Echo(name) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def echo():
    with echoing() as server:
        yield server


@pytest.fixture
def proxy(echo):
    with ChaosProxy(echo.url) as started:
        yield started


def connected_to(proxy: ChaosProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


@pytest.fixture
def connect(proxy):
    """Opens connections through the proxy, which end with the test."""
    opened: list[socket.socket] = []

    def open_one() -> socket.socket:
        opened.append(connected_to(proxy))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


def ask(connection: socket.socket, text: bytes, *, length: int | None = None) -> bytes:
    """Send, and return what comes back until it is as long, or the connection ends."""
    connection.sendall(text)
    return take(connection, len(text) if length is None else length)


def take(connection: socket.socket, length: int) -> bytes:
    taken = b""
    while len(taken) < length and (chunk := connection.recv(65536)):
        taken += chunk
    return taken


def nothing_comes(connection: socket.socket) -> bool:
    connection.settimeout(SHORT)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(5)
    return False


def test_without_a_fault_everything_goes_through(connect, proxy):
    text = os.urandom(2_000_000)
    connection = connect()
    sender = threading.Thread(target=connection.sendall, args=(text,))
    sender.start()
    assert take(connection, len(text)) == text
    sender.join()
    assert (proxy.counters.connections, proxy.counters.open) == (1, 1)
    assert (proxy.counters.bytes_sent, proxy.counters.bytes_answered) == (len(text), len(text))
    assert not proxy.counters.struck


def test_each_side_learns_how_the_other_ended(connect, echo):
    polite, rude, gone = connect(), connect(), connect()
    assert ask(polite, b"bye", length=1) == b""
    with pytest.raises(ConnectionResetError):
        ask(rude, b"reset me", length=1)
    ask(gone, b"hello")
    gone.close()
    until(lambda: echo.ends == ["fin"], "the target knows that the third has gone")


def test_a_target_that_is_not_there_looks_like_a_reset():
    with ChaosProxy(f"tcp://127.0.0.1:{free_port()}") as proxy:
        with pytest.raises(ConnectionResetError), connected_to(proxy) as connection:
            connection.recv(1)
        until(lambda: proxy.counters.open == 0, "nothing is left open")


def test_latency_holds_each_answer_back(connect, proxy):
    connection = connect()
    ask(connection, b"one")
    proxy.latency(SHORT)
    for _ in range(2):
        started = time.monotonic()
        assert ask(connection, b"two") == b"two"
        assert time.monotonic() - started >= SHORT
    proxy.heal()
    started = time.monotonic()
    assert ask(connection, b"three") == b"three"
    assert time.monotonic() - started < SHORT
    assert proxy.counters.struck == {Kind.LATENCY: 2}


def test_a_reset_at_once_lets_no_request_through(connect, proxy, echo):
    old = connect()
    ask(old, b"one")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        ask(old, b"two")
    with pytest.raises(ConnectionError):
        ask(connect(), b"three")
    assert echo.received == b"one"


@pytest.mark.parametrize("after_bytes", [0, 3, 5])
def test_a_reset_may_come_in_the_middle_of_an_answer(connect, proxy, echo, after_bytes):
    connection = connect()
    proxy.reset(after_bytes=after_bytes)
    connection.sendall(b"hello")
    assert take(connection, after_bytes) == b"hello"[:after_bytes]
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert echo.received == b"hello"


@pytest.mark.parametrize("after_bytes", [0, 3, 5])
def test_a_cut_ends_an_answer_politely(connect, proxy, echo, after_bytes):
    connection = connect()
    ask(connection, b"an answer before it")
    proxy.cut(after_bytes=after_bytes)
    assert ask(connection, b"hello", length=100) == b"hello"[:after_bytes]
    until(lambda: echo.ends == ["fin"], "the target is told too")


def test_half_open_takes_everything_and_never_answers(connect, proxy, echo):
    old = connect()
    ask(old, b"one")
    proxy.half_open()
    new = connect()
    for connection in (old, new):
        connection.sendall(b"two")
        assert nothing_comes(connection)
    proxy.heal()
    old.sendall(b"three")
    assert nothing_comes(old)
    assert echo.received == b"one"
    assert ask(connect(), b"four") == b"four"


def test_a_dribble_is_slow_until_healed(connect, proxy):
    connection = connect()
    proxy.dribble(bytes_per_second=20)
    started = time.monotonic()
    assert ask(connection, b"12345678", length=4) == b"1234"
    assert time.monotonic() - started >= 0.15
    connection.sendall(b"x" * 1000)
    assert take(connection, 4) == b"5678"
    proxy.heal()
    assert take(connection, 1000) == b"x" * 1000


def test_refusing_is_like_a_server_that_died(connect, proxy):
    old = connect()
    ask(old, b"one")
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        old.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.heal()
    assert ask(connect(), b"two") == b"two"


def test_a_freeze_holds_everything_and_loses_nothing(connect, proxy, echo):
    old = connect()
    ask(old, b"one")
    proxy.freeze()
    new = connect()
    for connection in (old, new):
        connection.sendall(b"two")
        assert nothing_comes(connection)
    assert echo.received == b"one"
    proxy.heal()
    assert take(old, 3) == take(new, 3) == b"two"


def test_a_fault_strikes_what_is_under_way(connect, proxy):
    connection = connect()
    proxy.latency(60)
    connection.sendall(b"one")
    until(lambda: proxy.counters.struck[Kind.LATENCY], "the answer is being held back")
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_the_next_exchange_goes_to_a_new_target(connect, proxy):
    connection = connect()
    with echoing(b"second ") as second:
        assert ask(connection, b"one") == b"one"
        proxy.target = second.url
        assert ask(connection, b"two", length=10) == b"second two"
        assert proxy.counters.connections == 1
        assert proxy.counters.exchanges == 2


def test_what_is_in_flight_ends_where_it_began(connect, proxy):
    connection = connect()
    ask(connection, b"one")
    proxy.latency(SHORT)
    connection.sendall(b"two")
    until(lambda: proxy.counters.struck[Kind.LATENCY], "the answer is being held back")
    with echoing(b"second ") as second:
        proxy.target = second.url
        assert take(connection, 3) == b"two"
        assert ask(connection, b"three", length=12) == b"second three"


def test_the_same_seed_throws_the_same_dice(echo):
    def struck(seed: int) -> list[bool]:
        with ChaosProxy(echo.url, seed=seed) as proxy:
            proxy.cut(after_bytes=0, probability=0.5)
            return [_cut_off(proxy) for _ in range(30)]

    first = struck(1)
    assert first == struck(1)
    assert first != struck(2)
    assert 5 <= first.count(True) <= 25


def _cut_off(proxy: ChaosProxy) -> bool:
    with connected_to(proxy) as connection:
        return ask(connection, b"hello") == b""


def test_dice_are_thrown_for_each_exchange_on_a_connection(connect, proxy):
    proxy.latency(0.001, probability=0.5)
    connection = connect()
    for _ in range(60):
        ask(connection, b"hello")
    assert 10 <= proxy.counters.struck[Kind.LATENCY] <= 50
    assert proxy.counters.exchanges == 60


def test_a_unix_socket_can_be_the_target(valkey):
    with ChaosProxy(valkey.url) as proxy:
        assert proxy.url("redis").startswith("redis://127.0.0.1:")
        with connected_to(proxy) as connection:
            assert ask(connection, b"PING\r\n", length=7) == b"+PONG\r\n"


def test_it_leaves_nothing_behind(echo, recwarn):
    threads, before = threading.active_count(), _open_files()
    for break_it in (ChaosProxy.freeze, ChaosProxy.half_open, ChaosProxy.refuse, ChaosProxy.heal):
        with ChaosProxy(echo.url) as proxy:
            connections = [connected_to(proxy) for _ in range(5)]
            ask(connections[0], b"hello")
            break_it(proxy)
        assert proxy.counters.open == 0
        for connection in connections:
            connection.close()
        with pytest.raises(ConnectionRefusedError):
            connected_to(proxy)
    until(lambda: _open_files() <= before, "every socket is closed")
    until(lambda: threading.active_count() <= threads, "every thread has ended")
    assert not recwarn.list


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
