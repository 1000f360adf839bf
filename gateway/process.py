"""One serving process from its settings to its end: the parts of `gateway.app` on the listeners of `gateway.server`."""

import asyncio
import gc
import socket
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp

from gateway.app import Gateway
from gateway.clock import Clock
from gateway.server import Listener, serve
from gateway.settings import Settings
from gateway.tasks import end
from gateway.telemetry import status

log = structlog.get_logger()

_ALLOCATIONS = 20_000
"""Between two searches for garbage in cycles. A request leaves next to none, and searching after each 700, as Python
does by itself, takes a sixth of a cached read."""

_WRITE_SECONDS = 1.0
"""Between two times that a worker writes its counts unasked: what a kill can lose of them."""

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

    app = gateway.ops_app(whole_status)
    await _run(gateway, settings, public=public, ops=ops, ops_app=app, clock=clock, on_ready=on_ready)


async def run_worker(
    gateway: Gateway,
    settings: Settings,
    *,
    public: socket.socket,
    control: socket.socket,
    clock: Clock,
    write_metrics: Callable[[], None],
) -> None:
    """Serve as one of several; the supervisor asks over `control` how it is, and to write its counts."""

    async def own_status() -> dict[str, Any]:
        return status.to_json(gateway.status())

    app = gateway.ops_app(own_status, write_metrics=write_metrics)
    writing = asyncio.create_task(_write_regularly(write_metrics, clock))
    try:
        await _run(gateway, settings, public=public, ops=control, ops_app=app, clock=clock)
    finally:
        await end(writing)
        write_metrics()


async def _write_regularly(write_metrics: Callable[[], None], clock: Clock) -> None:
    while True:
        write_metrics()
        await clock.sleep(_WRITE_SECONDS)


async def _run(
    gateway: Gateway,
    settings: Settings,
    *,
    public: socket.socket,
    ops: socket.socket,
    ops_app: ASGIApp,
    clock: Clock,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    gc.set_threshold(_ALLOCATIONS, 10, 10)
    for fault in settings.warnings:
        log.warning("configuration", fault=str(fault))
    await serve(
        Listener(gateway.public_app(), public, lifespan=True, grace=settings.quantapay_timeout + 1),
        Listener(ops_app, ops, lifespan=False, grace=_LAST_WORDS),
        drain_seconds=settings.drain_seconds,
        clock=clock,
        on_drain=gateway.drain,
        on_reload=gateway.config.reload,
        on_ready=on_ready,
    )
