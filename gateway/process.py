"""One serving process from its settings to its end: the parts of `gateway.app` on the listeners of `gateway.server`."""

import gc
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from gateway.app import Gateway
from gateway.clock import Clock
from gateway.server import Listener, serve
from gateway.settings import Settings
from gateway.telemetry import status

log = structlog.get_logger()

_ALLOCATIONS = 20_000
"""Between two searches for garbage in cycles. A request leaves next to none, and searching after each 700, as Python
does by itself, takes a sixth of a cached read."""

_LAST_WORDS = 1.0
"""Seconds that the operators' listener has to finish what it is answering."""


async def run_alone(
    gateway: Gateway,
    settings: Settings,
    *,
    public: socket.socket,
    ops: socket.socket,
    clock: Clock,
    embedded: bool,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve as the only process of this replica; raise `StartFailed` if it cannot."""

    async def whole_status() -> dict[str, Any]:
        return status.document([gateway.status()], expected=1, embedded_store=embedded)

    await _run(gateway, settings, public=public, ops=ops, clock=clock, ops_status=whole_status, on_ready=on_ready)


async def run_worker(
    gateway: Gateway, settings: Settings, *, public: socket.socket, control: socket.socket, clock: Clock
) -> None:
    """Serve as one of several; the supervisor asks over `control` how it is."""

    async def own_status() -> dict[str, Any]:
        return status.to_json(gateway.status())

    await _run(gateway, settings, public=public, ops=control, clock=clock, ops_status=own_status)


async def _run(
    gateway: Gateway,
    settings: Settings,
    *,
    public: socket.socket,
    ops: socket.socket,
    clock: Clock,
    ops_status: Callable[[], Awaitable[dict[str, Any]]],
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    gc.set_threshold(_ALLOCATIONS, 10, 10)
    for fault in settings.warnings:
        log.warning("configuration", fault=str(fault))
    await serve(
        Listener(gateway.public_app(), public, lifespan=True, grace=settings.quantapay_timeout + 1),
        Listener(gateway.ops_app(ops_status), ops, lifespan=False, grace=_LAST_WORDS),
        drain_seconds=settings.drain_seconds,
        clock=clock,
        on_drain=gateway.drain,
        on_reload=gateway.config.reload,
        on_ready=on_ready,
    )
