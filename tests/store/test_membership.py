"""How many processes there are, as Redis and as a process without it sees it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.clock import SystemClock
from gateway.store.client import connect
from gateway.store.membership import FORGOTTEN_AFTER, HEARTBEAT, KEY, Membership
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.valkey import ValkeyServer


@pytest.fixture
def valkey(valkey_factory) -> ValkeyServer:
    """A server of this test's own: on the session's, other tests' gateways announce themselves too."""
    return valkey_factory()


class HeldClock(SystemClock):
    """A clock whose sleepers wake when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._wake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._wake.wait()

    async def beat(self) -> None:
        """Wake the sleeper, and return when it sleeps again."""
        before = len(self.asked)
        self._wake.set()
        self._wake = asyncio.Event()
        async with asyncio.timeout(5):
            while len(self.asked) == before:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def member(url: str, *, assumed: int = 1) -> AsyncIterator[tuple[Membership, HeldClock]]:
    clock = HeldClock()
    store = Store(connect(url), clock=SystemClock(), metrics=Metrics())
    await store.start()
    membership = Membership(store, clock=clock, assumed=assumed)
    await membership.start()
    yield membership, clock
    await membership.close()
    await store.close()


async def test_processes_see_each_other_come_and_go(valkey: ValkeyServer) -> None:
    async with member(valkey.url, assumed=7) as (first, clock):
        assert first.processes == 1
        async with member(valkey.url) as (second, _):
            assert second.processes == 2
            await clock.beat()
            assert first.processes == 2
        await clock.beat()
        assert first.processes == 1
        assert set(clock.asked) == {HEARTBEAT}
    with valkey.client() as client:
        assert client.zcard(KEY) == 0


async def test_a_process_that_was_killed_is_forgotten(valkey: ValkeyServer) -> None:
    with valkey.client() as client:
        seconds, _ = client.time()
        client.zadd(
            KEY, {"fresh": (seconds - FORGOTTEN_AFTER + 5) * 1000, "dead": (seconds - FORGOTTEN_AFTER - 1) * 1000}
        )
        async with member(valkey.url) as (membership, _):
            assert membership.processes == 2
            assert client.zscore(KEY, "dead") is None
            assert 0 < client.pttl(KEY) <= FORGOTTEN_AFTER * 1000


async def test_a_time_from_before_the_clock_was_set_back_is_forgotten(valkey: ValkeyServer) -> None:
    with valkey.client() as client:
        seconds, _ = client.time()
        client.zadd(KEY, {"ahead": (seconds + 3600) * 1000})
        async with member(valkey.url) as (membership, _):
            assert membership.processes == 1


@pytest.mark.parametrize(("assumed", "expected"), [(4, 4), (0, 1)])
async def test_before_redis_ever_answers_the_assumed_number_counts(
    valkey_factory: Callable[[], ValkeyServer], assumed: int, expected: int
) -> None:
    server = valkey_factory()
    server.kill()
    async with member(server.url, assumed=assumed) as (membership, clock):
        assert membership.processes == expected
        await clock.beat()
        assert membership.processes == expected


async def test_while_redis_is_away_the_number_last_seen_counts(
    valkey_factory: Callable[[], ValkeyServer],
) -> None:
    server = valkey_factory()
    async with member(server.url) as (first, clock), member(server.url) as (second, _):
        assert second.processes == 2
        server.kill()
        await clock.beat()
        assert (first.processes, second.processes) == (1, 2)


async def test_one_that_was_never_started_closes(valkey: ValkeyServer) -> None:
    store = Store(connect(valkey.url), clock=SystemClock(), metrics=Metrics())
    await Membership(store, clock=SystemClock(), assumed=1).close()
    await store.close()
