"""Events while delivering processes are killed, Redis is restarted and the subscriber fails: not one is lost.

What is printed is how it went: how many came twice, or before an earlier one of their session, and how late.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import combinations
from pathlib import Path

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from gateway.errors import StorageUnavailable
from gateway.store.embedded import EmbeddedValkey
from gateway.store.queue import TAG, Known, put
from tests.plugins import chaos_deliverer
from tests.plugins.chaos_deliverer import queue_of, store_at
from tests.plugins.processes import clean_environ

pytestmark = pytest.mark.usefixtures("unmeasured")

SECRET = f"whsec_{'E' * 42}A="
EVENTS, MANY_EVENTS = 200, 2_000
A_SESSION = 2
"""Events of one session."""
PROCESSES = 3
KILLS, MANY_KILLS = 6, 80
SPREAD = 1.5
"""Seconds over which the events of the short form are put; the long form is as dense."""
PATIENCE = 90.0
"""Seconds until all is delivered, once nothing is killed any more."""


class Unreliable:
    """A subscriber that takes six events in ten, and fails the others in every way; keeps what it saw."""

    def __init__(self, seed):
        self.bodies: dict[str, set[bytes]] = defaultdict(set)
        """By `webhook-id`, what was ever sent under it."""
        self.accepted: dict[str, float] = {}
        """By `webhook-id`, when it was first taken."""
        self.attempts = self.acceptances = 0
        self.wrong: list[str] = []
        self._dice = random.Random(seed)
        self._verifier = Webhook(SECRET)

    async def handle(self, request: web.Request) -> web.Response:
        body, name = await request.read(), request.headers["webhook-id"]
        self.attempts += 1
        self.bodies[name].add(body)
        try:
            self._verifier.verify(body, dict(request.headers))
        except Exception as error:
            self.wrong.append(repr(error))
        match self._dice.choices(["take", "refuse", "ask", "hang", "reset", "lose"], [60, 15, 5, 5, 10, 5])[0]:
            case "refuse":
                return web.Response(status=500)
            case "ask":
                return web.Response(status=503, headers={"Retry-After": "1"})
            case "hang":
                await asyncio.sleep(2 * chaos_deliverer.TIMEOUT)
                return web.Response(status=500)
            case "reset":
                request.transport.abort()
                return web.Response(status=500)
            case "lose":  # it has the event, but its word does not arrive
                self._take(name)
                request.transport.abort()
                return web.Response(status=204)
        self._take(name)
        return web.Response(status=204)

    def _take(self, name):
        self.acceptances += 1
        self.accepted.setdefault(name, time.monotonic())

    @asynccontextmanager
    async def serving(self):
        app = web.Application()
        app.router.add_post("/hooks", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/hooks"
        finally:
            await runner.cleanup()


class Fleet:
    """Processes that deliver, each started again when it is killed."""

    def __init__(self, redis_url, subscriber_url, seed):
        self.kills = 0
        self._arguments = [redis_url, subscriber_url, SECRET]
        self._dice = random.Random(seed)
        self._pids: list[str] = []

    async def __aenter__(self):
        self._nursery = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.plugins.chaos_deliverer",
            *self._arguments,
            cwd=Path(__file__).parents[2],
            env=clean_environ(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._pids = [await self._tell("start") for _ in range(PROCESSES)]
        return self

    async def __aexit__(self, *_exception):
        self._nursery.stdin.close()
        await self._nursery.wait()
        self._nursery._transport.close()

    async def kill_one(self):
        """Kill one at random, and start another in its place."""
        index = self._dice.randrange(PROCESSES)
        await self._tell(f"kill {self._pids[index]}")
        self._pids[index] = await self._tell("start")
        self.kills += 1

    async def _tell(self, what):
        self._nursery.stdin.write(f"{what}\n".encode())
        return (await self._nursery.stdout.readline()).decode().strip()


class Source:
    """Puts events, each until it is surely there."""

    def __init__(self, store, seed):
        self.put_at: dict[str, float] = {}
        """By `webhook-id`: when it was surely in its queue."""
        self.sessions: dict[str, list[str]] = defaultdict(list)
        self._store = store
        self._dice = random.Random(seed)

    async def put(self, count, *, seconds):
        """Put so many over so many seconds."""
        for number in range(count):
            await self._put(f"msg_{number}", f"cs_{number // A_SESSION}")
            await asyncio.sleep(self._dice.uniform(0, 2 * seconds / count))

    async def _put(self, name, session):
        body = json.dumps({"type": "payment.completed", "data": {"id": name, "salt": self._dice.random()}})
        once = Known(history=f"qpg:{TAG}:payment:{name}", subject="C", digest=name)
        while True:
            try:
                await put(self._store, [queue_of(self._store)], name, body, group=session, once=once)
            except StorageUnavailable:
                await asyncio.sleep(0.05)
            else:
                self.put_at[name] = time.monotonic()
                self.sessions[session].append(name)
                return


async def test_every_event_is_delivered_whatever_breaks(tmp_path, chaos_seed, chaos_seconds):
    count, kills = (EVENTS, KILLS) if chaos_seconds is None else (MANY_EVENTS, MANY_KILLS)
    dice = random.Random(chaos_seed)
    subscriber = Unreliable(chaos_seed + 1)
    async with AsyncExitStack() as stack:
        valkey = stack.enter_context(EmbeddedValkey(tmp_path, durable=True))
        url = await stack.enter_async_context(subscriber.serving())
        store = store_at(valkey.url)
        await store.start()
        stack.push_async_callback(store.close)
        fleet = await stack.enter_async_context(Fleet(valkey.url, url, chaos_seed + 2))
        source = Source(store, chaos_seed + 3)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(source.put(count, seconds=SPREAD * count / EVENTS))
            restart_after = dice.randrange(kills)
            for number in range(kills):
                await asyncio.sleep(dice.uniform(0.05, 0.4))
                await fleet.kill_one()
                if number == restart_after:
                    await asyncio.to_thread(restart, valkey)
        waiting = await until_empty(store)

    report(subscriber, source, fleet)
    assert waiting == 0
    assert subscriber.wrong == []
    assert subscriber.accepted.keys() == source.put_at.keys()
    assert [name for name, bodies in subscriber.bodies.items() if len(bodies) > 1] == []
    assert fleet.kills == kills


def restart(valkey):
    """Kill Redis, and start it again over the file that it wrote."""
    valkey._process.kill()
    valkey.stop()
    valkey.start()


async def until_empty(store):
    """Wait until nothing waits in the queue; return what does after all patience."""
    deadline, waiting = time.monotonic() + PATIENCE, -1
    while waiting != 0 and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        try:
            waiting = (await queue_of(store).backlog()).waiting
        except StorageUnavailable:
            continue
    return waiting


def report(subscriber, source, fleet):
    late = sorted(max(0.0, at - source.put_at[name]) for name, at in subscriber.accepted.items())
    pairs = [pair for names in source.sessions.values() for pair in combinations(names, 2)]
    taken = subscriber.accepted
    swapped = sum(taken[second] < taken[first] for first, second in pairs if first in taken and second in taken)
    cuts = statistics.quantiles(late, n=100)
    again = subscriber.acceptances - len(taken)
    print(
        f"{len(taken)} of {len(source.put_at)} events delivered in {subscriber.attempts} attempts, "
        f"{fleet.kills} kills and a restart of Redis; {again} delivered again ({again / len(taken):.1%}); "
        f"{swapped} of {len(pairs)} pairs of a session out of order; seconds from put to first delivery: "
        f"p50 {cuts[49]:.2f}, p90 {cuts[89]:.2f}, p99 {cuts[98]:.2f}, most {late[-1]:.2f}"
    )
