"""Running the storefront on a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.clock import Clock
from gateway.sandbox.storefront.app import create_storefront
from gateway.sandbox.storefront.options import StorefrontOptions
from gateway.server import Listener

_GRACE = 1.0
"""Seconds for what is being answered at the end."""


@asynccontextmanager
async def storefront_server(options: StorefrontOptions, sock: socket.socket, clock: Clock) -> AsyncIterator[None]:
    """Run a storefront on `sock`, a listening socket, and the current event loop. Signals are left to the caller."""
    listener = Listener(create_storefront(options, clock), sock, lifespan=False, grace=_GRACE)
    serving = asyncio.create_task(listener.run_until_stopped())
    try:
        yield
    finally:
        listener.should_exit = True
        await serving
