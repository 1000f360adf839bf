"""Redis with replicas: writes that must last, Sentinel and Cluster, and real fail-overs of both."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise

import pytest
import redis
import structlog
from redis.crc import key_slot

from gateway.access.limits import Limits, client_limit
from gateway.access.limits_local import LocalLimiter
from gateway.access.limits_redis import RedisLimiter
from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.quota import Quota
from gateway.store.client import DEADLINE
from gateway.store.redis import Script, Store
from gateway.store.replication import NEEDED_FOR
from gateway.telemetry.metrics import Metrics
from tests.plugins.redis_servers import (
    PATIENCE,
    SERVICE,
    Cluster,
    RedisServer,
    RedisServers,
    running,
    until,
    until_back,
    unwatched,
)

SET = Script('return redis.call("SET", KEYS[1], ARGV[1], "PX", 60000)')
Change = Callable[[RedisServer], None]
LONGEST_FAILOVER = 10.0
"""Seconds, with servers that are missed after half a second (Sentinel) or one (Cluster)."""
PATIENT = 2.0
"""A deadline for what is not about deadlines."""


class MovableClock(SystemClock):
    """The machine's clock, which a test can move ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def write(store: Store, key: str) -> bool:
    """Write something that must last; return whether that was promised."""
    try:
        await store.write(SET, [key], [1])
    except StorageUnavailable:
        return False
    return True


async def write_then_read(store: Store) -> tuple[bool, bool, float]:
    """Return whether a write was promised, whether a read succeeded right after it, and the seconds it took."""
    started = time.perf_counter()
    written = await write(store, "qpg:test")
    seconds = time.perf_counter() - started
    try:
        await store.run(lambda client: client.get("qpg:test"))
    except StorageUnavailable:
        return written, False, seconds
    return written, True, seconds


async def until_written(store: Store, key: str = "qpg:test") -> None:
    async with asyncio.timeout(PATIENCE):
        while not await write(store, key):
            await asyncio.sleep(0.01)


class Writer:
    """Writes one key after another, for as long as it is entered, and remembers which of them were promised to last."""

    def __init__(self, store: Store, name: str = "test") -> None:
        self._store = store
        self._name = name
        self.promised: list[tuple[float, str]] = []
        """When, on the monotonic clock, and the key."""

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._write())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _write(self) -> None:
        number = 0
        while True:
            key = f"qpg:{{{self._name}}}:{number}"
            if await write(self._store, key):
                self.promised.append((time.monotonic(), key))
            number += 1
            await asyncio.sleep(0.002)

    async def writes_again(self) -> None:
        """Wait until it is promised something anew, ten times over."""
        goal = len(self.promised) + 10
        await eventually(lambda: len(self.promised) >= goal)

    def longest_gap(self) -> float:
        """Return the seconds that it went without a promise."""
        times = [time for time, _ in self.promised]
        return max(after - before for before, after in pairwise(times))

    async def lost(self) -> list[str]:
        """Return what it was promised, and is not there."""
        values = [await self._store.run(lambda client, key=key: client.get(key)) for _, key in self.promised]
        return [key for (_, key), value in zip(self.promised, values, strict=True) if value is None]


def one_name_for_each_primary(cluster: Cluster) -> list[str]:
    """Return names whose hash tags lie in slots of the first primary, the second, and so on."""
    names = {cluster.serving(f"client-{number}"): f"client-{number}" for number in range(50)}
    return [names[primary] for primary in range(len(cluster.primaries))]


def _role(server: RedisServer) -> bytes | None:
    """Return what a server is, or None if it does not answer."""
    with suppress(redis.RedisError):
        return server.ask("ROLE")[0]
    return None


def calls(server: RedisServer, command: str) -> int:
    """Return how often a server has carried out a command."""
    with server.client() as client:
        stats = client.info("commandstats")
    return stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]


async def test_without_replicas_a_write_is_one_command(each_redis: RedisServers) -> None:
    server = each_redis.plain().ready()
    async with running(server.url, deadline=PATIENT) as store:
        await store.write(SET, ["qpg:test"], [0])
        before = calls(server, "evalsha")
        for number in range(10):
            await store.write(SET, ["qpg:test"], [number])
        assert calls(server, "evalsha") == before + 10
        assert calls(server, "wait") == 0


async def test_a_write_waits_for_a_replica_and_is_refused_without_doubting_redis(each_redis: RedisServers) -> None:
    topology, metrics = each_redis.replicated(replicas=1), Metrics()
    [replica] = topology.replicas
    async with running(topology.primary.url, metrics=metrics) as store:
        await until_written(store)
        assert calls(topology.primary, "wait") > 0
        with structlog.testing.capture_logs() as lines:
            replica.pause()
            outcomes = [await write_then_read(store) for _ in range(9)]
            assert not any(written for written, *_ in outcomes)
            assert statistics.median(seconds for *_, seconds in outcomes) <= DEADLINE + 0.05
            # Most, as on a busy machine all time may be up before the replica's is noticed to be.
            assert sum(read for _, read, _ in outcomes) > 5
            assert store.up
            replica.resume()
            await until_written(store)
        assert [line["event"] for line in lines if line["log_level"] != "debug"] == [
            "redis replicas missing or late, refusing writes that must last",
            "redis replicas are back",
        ]


async def test_a_primary_that_lost_its_replicas_is_not_written_to_for_a_minute(redis_servers: RedisServers) -> None:
    topology, clock = redis_servers.replicated(replicas=2), MovableClock()
    async with running(topology.primary.url, clock=clock, deadline=PATIENT) as store:
        await until_written(store)
        for replica in topology.replicas:
            replica.kill()
        looks = calls(topology.primary, "role")
        await eventually(lambda: calls(topology.primary, "role") > looks + 1)
        started = time.perf_counter()
        assert not await write(store, "qpg:late")
        assert time.perf_counter() - started < PATIENT / 2, "it was waited for replicas that are known to be gone"
        assert topology.primary.ask("EXISTS", "qpg:late") == 0
        clock.ahead += NEEDED_FOR
        assert await write(store, "qpg:late")


async def test_a_store_that_does_not_watch_asks_for_replicas_before_its_first_write(
    redis_servers: RedisServers,
) -> None:
    topology = redis_servers.replicated(replicas=1)
    async with unwatched(topology.primary.url) as store:
        await until_written(store)
        assert calls(topology.primary, "wait") > 0


@pytest.mark.parametrize("fail", [RedisServer.kill, RedisServer.pause])
async def test_sentinels_replace_a_primary_and_nothing_promised_is_lost(
    redis_servers: RedisServers, fail: Change
) -> None:
    topology = redis_servers.replicated(replicas=2, sentinels=3)
    async with running(topology.url) as store:
        writer = Writer(store)
        async with writer.writing():
            await writer.writes_again()
            # One machine, with the sentinel that the gateway asks first.
            fail(topology.primary)
            fail(topology.sentinels[0])
            await writer.writes_again()
            assert 0.5 < writer.longest_gap() < LONGEST_FAILOVER
        assert store.up
        assert await writer.lost() == []


async def test_a_primary_that_does_not_know_yet_that_it_was_replaced_is_left(redis_servers: RedisServers) -> None:
    topology = redis_servers.replicated(replicas=2, sentinels=1)
    async with running(topology.url) as store:
        await until_written(store)
        # Asked for, sentinels promote a replica at once, and only after ten seconds tell the old primary, which
        # still holds our connections and still takes writes: all that it lacks is replicas.
        until(lambda: topology.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE), "a replica is fit to be promoted")
        await eventually(lambda: b"master" in map(_role, topology.replicas))
        asked = time.monotonic()
        [primary] = [replica for replica in topology.replicas if _role(replica) == b"master"]
        # Not before: what a replica acknowledges that is not the one promoted goes with the old primary.
        await eventually(lambda: primary.ask("ROLE")[2])
        await until_written(store, "qpg:late")
        assert time.monotonic() - asked < LONGEST_FAILOVER
        assert _role(topology.primary) == b"master"
        with primary.client(db=1) as client:
            assert client.get("qpg:late") == b"1"


@pytest.mark.parametrize(
    ("fail", "mend"), [(RedisServer.kill, RedisServer.start), (RedisServer.pause, RedisServer.resume)]
)
async def test_a_cluster_fails_over_and_nothing_promised_is_lost(
    redis_servers: RedisServers, fail: Change, mend: Change
) -> None:
    cluster, metrics = redis_servers.cluster(primaries=3, replicas=True), Metrics()
    names = one_name_for_each_primary(cluster)
    async with running(cluster.url, metrics=metrics) as store:
        limiter = RedisLimiter(
            store, LocalLimiter(SystemClock(), share=lambda: 1), clock=SystemClock(), metrics=metrics
        )

        async def limited_by() -> list[str]:
            return [(await limiter.take(Limits(client_limit(name, Quota.parse("600/minute"))))).store for name in names]

        writers = [Writer(store, name) for name in names]
        async with AsyncExitStack() as stack:
            for writer in writers:
                await stack.enter_async_context(writer.writing())
                await writer.writes_again()
            assert await limited_by() == ["redis"] * 3
            fail(cluster.primaries[0])
            await eventually(lambda: not store.up)
            # One primary's fault is the store's: what the others would serve goes on without Redis too.
            assert await limited_by() == ["local"] * 3
            for writer in writers:
                await writer.writes_again()
                assert writer.longest_gap() < LONGEST_FAILOVER
            assert writers[0].longest_gap() > 0.5
            await until_back(store)
            assert await limited_by() == ["redis"] * 3
            # It comes back as a replica of its replacement.
            mend(cluster.primaries[0])
            await eventually(lambda: _role(cluster.primaries[0]) == b"slave")
            await writers[0].writes_again()
        for writer in writers:
            assert await writer.lost() == []


async def test_a_slot_that_moves_takes_its_writes_along(redis_servers: RedisServers) -> None:
    cluster = redis_servers.cluster(primaries=2, replicas=False)
    old, new = cluster.primaries
    [name, _] = one_name_for_each_primary(cluster)
    slot = key_slot(name.encode())
    async with running(cluster.url, deadline=PATIENT) as store:
        await until_written(store, f"qpg:{{{name}}}:old")
        old_id, new_id = (node.ask("CLUSTER", "MYID").decode() for node in cluster.primaries)
        new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
        old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
        # A key that is not there any more is asked for at the new node (ASK).
        assert await write(store, f"qpg:{{{name}}}:new")
        assert await store.run(lambda client: client.get(f"qpg:{{{name}}}:old")) == b"1"
        old.ask("MIGRATE", "127.0.0.1", new.port, f"qpg:{{{name}}}:old", 0, 1000)
        for node in (new, old):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", new_id)
        # From now on the old node sends there for good (MOVED).
        assert await write(store, f"qpg:{{{name}}}:newer")
        assert store.up
    assert new.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 3


async def test_a_cluster_is_found_again_after_it_was_down_as_a_whole(redis_servers: RedisServers) -> None:
    cluster = redis_servers.cluster(primaries=1, replicas=False)
    [node] = cluster.primaries
    # A second way in that leads nowhere.
    async with running(f"{cluster.url},127.0.0.1:{redis_servers.free_port()}", deadline=PATIENT) as store:
        await until_written(store)
        node.kill()
        assert not await write(store, "qpg:test")
        await eventually(lambda: not store.up)
        node.start()
        await until_back(store)
        assert await write(store, "qpg:test")
