"""A load balancer that honours `/readyz`, as an httpx transport: what asks through it speaks to whoever is ready."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx

POLL_SECONDS = 0.1
_STALE_SECONDS = 0.5
"""An answer of `/readyz` that is older says nothing, as when this machine was too busy to ask."""
_PATIENCE = 10.0
_KEEPS_CONNECTIONS = 2.0
"""Seconds: less than a gateway does, so that it never closes one just as something is sent."""


def connections() -> httpx.AsyncHTTPTransport:
    """Return as many connections as are asked for: httpx's pool loses a place when who waits for one is cancelled."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPS_CONNECTIONS)
    return httpx.AsyncHTTPTransport(limits=limits)


@dataclass(slots=True)
class Backend:
    """One gateway, and when it last said that it is ready."""

    url: httpx.URL
    ready_at: float = float("-inf")
    asked: int = 0
    """Requests that it got."""


@dataclass(slots=True)
class Balancer(httpx.AsyncBaseTransport):
    """Sends each request to one ready backend, in turn, over kept connections; never twice.

    While nobody is ready requests wait. Runs in one event loop; `add` and `remove` are safe from other threads.
    """

    _backends: tuple[Backend, ...] = ()
    _turn: int = 0
    _transport: httpx.AsyncHTTPTransport = field(default_factory=connections)

    @property
    def backends(self) -> tuple[Backend, ...]:
        return self._backends

    def add(self, url: str) -> None:
        """Poll another backend, and send to it once it is ready."""
        self._backends = (*self._backends, Backend(httpx.URL(url)))

    def remove(self, url: str) -> None:
        """Forget a backend that has ended."""
        self._backends = tuple(backend for backend in self._backends if backend.url != url)

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        """Ask every backend ten times a second whether it is ready."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._poll())
            yield
            task.cancel()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, whose own host does not matter, to a backend that is ready."""
        backend = await self._next_ready()
        backend.asked += 1
        return await self._transport.handle_async_request(self._readdressed(request, backend))

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    def _readdressed(self, request: httpx.Request, backend: Backend) -> httpx.Request:
        url = request.url.copy_with(scheme=backend.url.scheme, host=backend.url.host, port=backend.url.port)
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"host"]
        headers.insert(0, (b"Host", url.netloc))
        return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)

    async def _next_ready(self) -> Backend:
        async with asyncio.timeout(_PATIENCE):
            while True:
                now = time.monotonic()
                ready = [backend for backend in self._backends if now - backend.ready_at < _STALE_SECONDS]
                if ready:
                    self._turn += 1
                    return ready[self._turn % len(ready)]
                await asyncio.sleep(POLL_SECONDS / 10)

    async def _poll(self) -> None:
        async with httpx.AsyncClient(transport=connections(), timeout=_STALE_SECONDS) as http:
            while True:
                await asyncio.gather(*(self._ask(http, backend) for backend in self._backends))
                await asyncio.sleep(POLL_SECONDS)

    async def _ask(self, http: httpx.AsyncClient, backend: Backend) -> None:
        asked_at = time.monotonic()
        ready = False
        with suppress(httpx.TransportError):
            ready = (await http.get(backend.url.join("/readyz"))).status_code == httpx.codes.OK
        backend.ready_at = asked_at if ready else float("-inf")
