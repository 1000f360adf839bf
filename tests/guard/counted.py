"""The program whose instructions are counted: each kind of request in turn, into the gateway or FastAPI's hello.

    valgrind --tool=callgrind --instr-atstart=no --dump-before=getsid … python -m tests.guard.counted

The gateway is that of the environment, as `serve` would run it. There are no sockets but that to Redis and no
QuantaPay, since what a kernel or another server adds differs from machine to machine.
"""

import asyncio
import gc
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.lifespan.on import LifespanOn

from gateway.app import Gateway
from gateway.clock import SystemClock
from gateway.quantapay.budget import ledger
from gateway.quantapay.connection import Connection
from gateway.quantapay.transport import HttpTransport
from gateway.settings import load_settings
from gateway.store.client import connect
from gateway.telemetry import logs
from tests.bench.peers.hello import app as hello
from tests.bench.servers import NUMBERED_KEY
from tests.bench.subjects import BY_NAME, RATE, bearer
from tests.bench.upstream import answer_to
from tests.bench.wrk import Requests
from tests.guard.bounds import BOUNDS, MANY, UNIT
from tests.guard.caller import PATIENCE, Caller

CLIENTS = 64
"""Twice as many as send at once. With their limit none of them gets permits in advance."""
CLIENTS_LIMIT = "50000/hour"
REQUESTS = {
    **{name: BY_NAME[name].requests for name in (UNIT, *BOUNDS) if name in BY_NAME},
    MANY: Requests("GET", RATE, 200, bearer(NUMBERED_KEY), among=CLIENTS),
}
"""What is sent, by its kind, in the order in which it is counted."""
WARM_UP_WAVES = 4
WAVES = 8
"""That count."""


class StillClock(SystemClock):
    """Time that stands still and wakes nobody: how much happens in a second would differ from machine to machine."""

    def __init__(self) -> None:
        self._time, self._monotonic = super().time(), super().monotonic()

    def time(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


class Wire(asyncio.Transport):
    """Answers in the next turn of the loop what the benchmark's QuantaPay would."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        answer = answer_to(data.partition(b"\r\n\r\n")[2])
        self._loop.call_soon(self._connection.data_received, answer)

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self._loop.call_soon(self._connection.connection_lost, None)


class InMemory(HttpTransport):
    """Our own connections to QuantaPay, without sockets."""

    async def _open(self) -> Connection:
        connection = Connection()
        connection.connection_made(Wire(connection))
        return connection


@asynccontextmanager
async def running_gateway() -> AsyncIterator[ASGIApp]:
    """Yield the application that callers reach, started."""
    # Redis's clock goes on while ours stands still, which is no sign of lost data here.
    ledger.CLOCK_SLACK = PATIENCE
    settings = load_settings()
    assert settings.redis_url is not None
    logs.configure(level=settings.log_level, json=True, secrets=settings.secrets().values(), for_good=True)
    gateway = Gateway(
        settings,
        redis=connect(settings.redis_url, deadline=PATIENCE),
        redis_deadline=PATIENCE,
        transport=InMemory(settings.quantapay_url, connect_seconds=PATIENCE, keep_seconds=PATIENCE),
        clock=StillClock(),
    )
    app = gateway.public_app()
    lifespan = LifespanOn(Config(app, lifespan="on", log_config=None))
    await lifespan.startup()
    try:
        yield app
    finally:
        await lifespan.shutdown()


def begin_to_count() -> None:
    """Have valgrind count instructions; until then it runs five times as fast."""
    vgdb = subprocess.Popen(["vgdb", f"--pid={os.getpid()}", "instrumentation", "on"], stdout=subprocess.DEVNULL)
    while vgdb.poll() is None:  # and not `wait`: valgrind listens only while something runs
        time.sleep(0.01)
    assert vgdb.returncode == 0, "valgrind cannot be told to count"


def mark() -> None:
    """Have callgrind write what it counted since the mark before.

    It watches for this function of the C library, which nobody else here calls. A message by `vgdb` would come in at
    one instruction or another.
    """
    os.getsid(0)


async def count_all() -> None:
    """Send all kinds of requests, the counted ones of each between two marks."""
    async with running_gateway() as app:
        callers = {name: Caller(hello if name == UNIT else app, requests) for name, requests in REQUESTS.items()}
        for caller in callers.values():
            await caller.send(WARM_UP_WAVES)
        # When garbage is looked for depends on all that happened before.
        gc.collect()
        gc.disable()
        begin_to_count()
        for name, caller in callers.items():
            # Once uncounted: Redis's time goes on, and what it knew of the budget at the warm-up may be gone.
            await caller.send(1)
            mark()
            statuses = await caller.send(WAVES)
            mark()
            assert set(statuses) == {REQUESTS[name].status}, f"{name}: {dict(statuses)}"


if __name__ == "__main__":
    uvloop.run(count_all())
