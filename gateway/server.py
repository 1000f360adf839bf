"""One process that serves: two listeners in one event loop, from the first accept to the last answer.

A stop (SIGTERM, SIGINT) goes in this order, so that a load balancer never sends to a closed door:

1. `/readyz` answers 503 at once, and every answer is its connection's last; everything else goes on as before.
2. After the drain seconds the public listener stops accepting.
3. What is in flight finishes, within the upstream deadline.
4. The operators' listener goes last, so that the end can be watched.

A second signal skips the waiting.
"""

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Callable, Iterator

import structlog
import uvicorn
from starlette.types import ASGIApp

from gateway.clock import Clock
from gateway.http.protocol import BoundedHttpProtocol

log = structlog.get_logger()

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: longer than proxies in front do (nginx and AWS: 60), or they would now and
then send a request just as it ends."""
_BACKLOG = 2048
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Listener(uvicorn.Server):
    """uvicorn on one socket, without signal handlers: the process decides when to stop, not a listener."""

    def __init__(self, app: ASGIApp, sock: socket.socket, *, lifespan: bool, grace: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedHttpProtocol,
                ws="none",
                lifespan="on" if lifespan else "off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # which proxies to believe is decided by GATEWAY_TRUSTED_PROXIES
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=math.ceil(grace),
            )
        )
        self._sock = sock

    async def run_until_stopped(self) -> None:
        """Serve until `should_exit`; raise `StartFailed` if the application does not start."""
        try:
            await self.serve(sockets=[self._sock])
        except SystemExit:
            raise StartFailed from None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class StartFailed(Exception):
    """The application did not come up; its log lines say why."""


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket; raise `OSError` if the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What it accepts takes this over. Else an answer's body could wait 40 ms for its headers' acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


async def serve(
    public: Listener,
    ops: Listener,
    *,
    drain_seconds: float,
    clock: Clock,
    on_drain: Callable[[], None],
    on_reload: Callable[[], None],
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal asks to stop, then stop in the order above; raise `StartFailed`."""
    loop = asyncio.get_running_loop()
    stops: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stops.put_nowait, number)
    loop.add_signal_handler(signal.SIGHUP, on_reload)

    serving = [asyncio.ensure_future(listener.run_until_stopped()) for listener in (public, ops)]
    stop = asyncio.ensure_future(stops.get())
    announcing = asyncio.ensure_future(_once_started(public, on_ready))
    try:
        await asyncio.wait([stop, *serving], return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            log.info("draining", signal=stop.result().name, seconds=drain_seconds)
            on_drain()
            await _pause(drain_seconds, clock, unless=stops)
    finally:
        stop.cancel()
        announcing.cancel()
        public.should_exit = True
        await asyncio.wait(serving[:1])
        ops.should_exit = True
        await asyncio.wait(serving)
        for number in (*_STOP_SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)
        log.info("stopped")
    for listener in serving:
        listener.result()


async def _once_started(listener: Listener, action: Callable[[], None]) -> None:
    while not listener.started:  # noqa: ASYNC110 - uvicorn has a flag to look at, and no event
        await asyncio.sleep(0.01)
    action()


async def _pause(seconds: float, clock: Clock, *, unless: asyncio.Queue[signal.Signals]) -> None:
    """Wait out the drain, or a second signal."""
    again = asyncio.ensure_future(unless.get())
    pause = asyncio.ensure_future(clock.sleep(seconds))
    await asyncio.wait([again, pause], return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    pause.cancel()
