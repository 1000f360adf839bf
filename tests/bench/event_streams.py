"""What open event streams cost a process, and how soon an event reaches all of them: prints the figures.

    python -m tests.bench.event_streams [STREAMS]

A tiny application on the gateway's own listener runs in a process of its own, on uvloop as in production, and sends
every stream the same event at once. The readers are raw sockets here.

Each stream takes an open file on either side: raise `ulimit -n` for more than the limit allows.
"""

import asyncio
import multiprocessing
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable
from multiprocessing.synchronize import Event as Signal
from pathlib import Path

import uvloop
from starlette.types import Receive, Scope, Send

from gateway.clock import SystemClock
from gateway.http.event_stream import Event, EventStream
from gateway.server import Listener, bind

STREAMS = 1000
SPARE_FILES = 100
PATIENCE = 60.0
"""Seconds for all streams to open, and for the event to reach all."""
DATA = '{"id": "cs_0123456789abcdef0123456789abcdef", "status": "paid", "price": "49.99"}'


class Application:
    """Answers every request with a stream whose one event comes on SIGUSR1."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self._clock = SystemClock()
        self._draining = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = EventStream(self._events(), clock=self._clock, draining=self._draining, on_close=self._closed)
        await stream(scope, receive, send)

    async def _events(self) -> AsyncIterator[Event]:
        await self.released.wait()
        yield Event("session", id="2", data=DATA)

    async def _closed(self) -> None:
        pass


def serve(sock: socket.socket, ready: Signal) -> None:
    """Serve until SIGTERM."""

    async def run() -> None:
        application = Application()
        listener = Listener(application, sock, lifespan=False, grace=1)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, application.released.set)
        loop.add_signal_handler(signal.SIGTERM, setattr, listener, "should_exit", True)
        loop.call_soon(ready.set)
        await listener.run_until_stopped()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Readers:
    """Raw sockets, each with one stream."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._got: dict[socket.socket, bytes] = {}

    def open(self, requests: Iterable[bytes]) -> None:
        """Open a stream with each of these requests, and return when the heads of all have come."""
        for request in requests:
            sock = socket.create_connection(self._address)
            sock.sendall(request)
            self._selector.register(sock, selectors.EVENT_READ)
            self._got[sock] = b""
        self.read_until(b"\r\n\r\n")

    def read_until(self, text: bytes) -> None:
        """Read on until every stream has brought `text`, now or before."""
        waiting = {sock for sock, got in self._got.items() if text not in got}
        deadline = time.monotonic() + PATIENCE
        while waiting:
            for key, _ in self._selector.select(timeout=deadline - time.monotonic()):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                self._got[sock] += sock.recv(4096)
                if text in self._got[sock]:
                    waiting.discard(sock)
            if time.monotonic() > deadline:
                sys.exit(f"{len(waiting)} streams never brought {text!r}")

    def close(self) -> None:
        """Hang up."""
        for sock in self._got:
            sock.close()
        self._selector.close()


def allow_open_files(count: int) -> None:
    """Raise the soft limit as far as needed; end with a message if the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if hard != resource.RLIM_INFINITY and wanted > hard:
        sys.exit(f"{count} streams need {wanted} open files, but the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    say("open files allowed", f"{max(soft, wanted)} (before: {soft})")


def say(what: str, figure: str) -> None:
    """Print one figure."""
    print(f"{what:<42}{figure}", flush=True)  # noqa: T201 - its figures are its report


def main(streams: int) -> None:
    """Measure and print."""
    allow_open_files(streams)
    context = multiprocessing.get_context("spawn")
    ready, sock = context.Event(), bind("127.0.0.1", 0)
    server = context.Process(target=serve, args=(sock, ready))
    server.start()
    readers = Readers(sock.getsockname())
    try:
        assert server.pid is not None
        assert ready.wait(PATIENCE)
        baseline = resident(server.pid)
        started = time.monotonic()
        readers.open([b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"] * streams)
        opening = time.monotonic() - started
        grown = resident(server.pid) - baseline
        started = time.monotonic()
        os.kill(server.pid, signal.SIGUSR1)
        readers.read_until(b"data: " + DATA.encode())
        reached = time.monotonic() - started
    finally:
        readers.close()
        server.terminate()
        server.join()
    say("memory before", f"{baseline / 2**20:.1f} MiB")
    say(f"memory that {streams} open streams take", f"{grown / 2**20:.1f} MiB, {grown / streams / 1024:.1f} KiB each")
    say("time to open them", f"{opening:.2f} s")
    say("time until an event has reached all", f"{reached * 1000:.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STREAMS)
