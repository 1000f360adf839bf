"""Running the simulator on a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import uvicorn
from anyio.from_thread import start_blocking_portal
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.clock import Clock, SystemClock
from gateway.sandbox.simulator.answers import TRANSPORT_EXTENSION
from gateway.sandbox.simulator.app import create_simulator
from gateway.sandbox.simulator.options import SimulatorOptions

LOOPBACK = "127.0.0.1"
_KEEP_ALIVE_SECONDS = 75
"""As nginx has it: longer than a client under test keeps a connection."""


class _BreakableProtocol(HttpToolsProtocol):
    """HTTP/1.1 that hands its connection to the application, so that a scenario can break it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT_EXTENSION: {"transport": self.transport}}


@asynccontextmanager
async def simulator_server(
    options: SimulatorOptions, *, port: int = 0, clock: Clock | None = None
) -> AsyncIterator[str]:
    """Run a simulator on loopback and the current event loop, and yield its base URL without a final slash.

    Port 0 is any free one.
    Connections still open at the end are cut. Signals are left to the caller. `OSError` if the port is taken.
    """
    with socket.create_server((LOOPBACK, port)) as listener:
        # What it accepts takes this over, which asyncio would not set by itself. Else an answer's body waits for the
        # caller's delayed acknowledgement of its headers: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            create_simulator(options, clock or SystemClock()),
            http=_BreakableProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        ticking = asyncio.create_task(server.main_loop())
        try:
            yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        finally:
            ticking.cancel()
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            with anyio.CancelScope(shield=True):
                await server.shutdown(sockets=[listener])


@contextmanager
def running_simulator(options: SimulatorOptions, *, port: int = 0, clock: Clock | None = None) -> Iterator[str]:
    """Run a simulator in a thread with an event loop of its own and yield its base URL, without a final slash."""
    server = simulator_server(options, port=port, clock=clock)
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(server) as base_url:
        yield base_url
