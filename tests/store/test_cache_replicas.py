"""The read cache of several replicas on one real Valkey: one fetch for all, also when things go wrong."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import redis

from gateway.clock import SystemClock
from gateway.errors import NotReady, StorageUnavailable, UpstreamTimeout, UpstreamUnavailable
from gateway.store.cache import Cache, CacheKey, Fetched, Found, Served
from gateway.store.client import connect
from gateway.store.flight import LEASE, MOST_BYTES, SharedEntry
from gateway.store.local_cache import Entry
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.valkey import ValkeyServer

ValkeyFactory = Callable[[], ValkeyServer]

KEY = CacheKey("get-balances", "account|get-balances|balances|")
FRESH = 30.0
TIME_KEY = "qpg:test:time"


class HeldClock(SystemClock):
    """A clock whose sleepers wake when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleepers: list[asyncio.Event] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        due = asyncio.Event()
        self.sleepers.append(due)
        await due.wait()

    def wake(self, later: float) -> None:
        self.now += later
        for due in self.sleepers:
            due.set()
        self.sleepers = []


class Upstream:
    """Counts its calls, and answers each with another value; can be held, and made to fail."""

    def __init__(self, takes: float = 0.0) -> None:
        self.calls = 0
        self.fails: Exception | None = None
        self._takes = takes
        self._open = asyncio.Event()
        self._open.set()

    async def __call__(self) -> Fetched:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(self._takes)
        await self._open.wait()
        if self.fails is not None:
            raise self.fails
        return Fetched(b"value %d" % number)

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def called(self, times: int = 1) -> None:
        await until(lambda: self.calls >= times)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


class Replica:
    """A cache with a connection of its own."""

    def __init__(self, url: str, *, timeout: float, clock: SystemClock | None, deadline: float) -> None:
        self.clock = clock or SystemClock()
        metrics = Metrics()
        self.store = Store(connect(url), clock=SystemClock(), metrics=metrics, deadline=deadline)
        self.cache = Cache(self.store, clock=self.clock, metrics=metrics, timeout=timeout)

    async def read(self, fetch: Callable[[], Awaitable[Fetched]], *, key: CacheKey = KEY, fresh_for: float = FRESH):
        return await self.cache.read(key, fresh_for=fresh_for, fetch=fetch)

    def reading(self, fetch: Callable[[], Awaitable[Fetched]], **options: object) -> asyncio.Task[Found]:
        return asyncio.create_task(self.read(fetch, **options))


@asynccontextmanager
async def replicas(
    url: str, number: int, *, timeout: float = 5.0, clock: SystemClock | None = None, deadline: float = 5.0
) -> AsyncIterator[list[Replica]]:
    """Caches that must leave no flight and no task behind. The first has `clock`; a long `deadline` is patience."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        members = []
        for index in range(number):
            member = Replica(url, timeout=timeout, clock=clock if index == 0 else None, deadline=deadline)
            await member.store.start()
            stack.push_async_callback(member.store.close)
            stack.push_async_callback(member.cache.close)
            members.append(member)
        yield members
    for member in members:
        await until(lambda member=member: not member.cache._aloft)
        assert not member.cache._flights
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


def lease_key(client: redis.Redis) -> str:
    [key] = client.keys("qpg:cache:*:lease")
    return key.decode()


@pytest.mark.parametrize("number", [2, 4])
async def test_all_replicas_together_fetch_once(valkey: ValkeyServer, number: int) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replicas(valkey.url, number) as members:
        tasks = [member.reading(upstream) for member in members for _ in range(10)]
        await upstream.called()
        await asyncio.sleep(0.1)  # for the others to look and find the lease taken
        upstream.release()
        found = await asyncio.gather(*tasks)
        assert upstream.calls == 1
        assert {each.value for each in found} == {b"value 1"}
        assert sorted(each.served for each in found) == ["collapsed"] * (10 * number - 1) + ["miss"]
        assert {(await member.read(upstream)).served for member in members} == {Served.HIT}


async def test_there_is_one_fetch_a_key_and_freshness_period(valkey: ValkeyServer) -> None:
    fresh_for, seconds = 0.25, 1.5
    fetches: dict[str, list[tuple[float, float]]] = {}

    async with replicas(valkey.url, 3) as members:

        async def visitor(member: Replica, name: str, ends: float) -> None:
            async def fetch() -> Fetched:
                started = time.monotonic()
                await asyncio.sleep(0.02)
                fetches.setdefault(name, []).append((started, time.monotonic()))
                return Fetched(name.encode())

            while time.monotonic() < ends:
                found = await member.read(fetch, key=CacheKey("get-exchange-rates", name), fresh_for=fresh_for)
                assert found.value == name.encode()
                await asyncio.sleep(0.005)

        ends = time.monotonic() + seconds
        names = [f"rate {number}" for number in range(4)]
        await asyncio.gather(*(visitor(member, name, ends) for member in members for name in names for _ in range(3)))
    for name in names:
        assert len(fetches[name]) >= 3
        for (_, ended), (started, _) in zip(fetches[name], fetches[name][1:], strict=False):
            assert started - ended >= fresh_for - 0.003  # Redis counts in whole milliseconds


async def test_a_leader_that_is_stopped_hands_over_at_once(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replicas(valkey.url, 2) as (one, other):
        first = one.reading(upstream)
        await upstream.called()
        second = other.reading(upstream)
        await asyncio.sleep(0.05)
        await one.cache.close()
        with pytest.raises(NotReady):
            await first
        await upstream.called(2)
        upstream.release()
        found = await second
        assert (found.value, found.served) == (b"value 2", Served.MISS)


async def test_a_leader_that_is_killed_is_replaced_when_its_lease_ends(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replicas(valkey.url, 2) as (one, other):
        first = one.reading(upstream)
        await upstream.called()
        with valkey.client() as client:
            lease = lease_key(client)
            assert client.pttl(lease) <= LEASE * 1000
            client.set(lease, "a process that was killed", px=int(LEASE * 1000))
        second = other.reading(upstream)
        await asyncio.sleep(0.15)
        assert upstream.calls == 1
        with valkey.client() as client:
            client.pexpire(lease, 50)
        await upstream.called(2)
        upstream.release()
        await asyncio.gather(first, second)


async def test_a_leader_that_fails_frees_the_lease_and_a_waiter_tries(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replicas(valkey.url, 2) as (one, other):
        first = one.reading(upstream)
        await upstream.called()
        second = other.reading(upstream)
        await asyncio.sleep(0.05)
        upstream.fails = UpstreamUnavailable()
        upstream.release()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UpstreamUnavailable] * 2
        assert upstream.calls == 2
        with valkey.client() as client:
            assert client.keys("qpg:cache:*") == []


async def test_a_slow_fetch_keeps_its_lease(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    upstream.hold()
    async with replicas(valkey.url, 2, clock=clock) as (one, other):
        first = one.reading(upstream)
        await upstream.called()
        second = other.reading(upstream)
        with valkey.client() as client:
            lease = lease_key(client)
            for _ in range(3):
                await until(lambda: clock.sleepers)
                client.pexpire(lease, 1000)
                clock.wake(1.0)
                await until(lambda: client.pttl(lease) > 2000)
        assert upstream.calls == 1
        upstream.release()
        assert [each.served for each in await asyncio.gather(first, second)] == [Served.MISS, Served.COLLAPSED]


async def test_a_lease_that_another_has_is_neither_renewed_nor_freed(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    upstream.hold()
    async with replicas(valkey.url, 1, clock=clock) as [one]:
        first = one.reading(upstream)
        await upstream.called()
        await until(lambda: clock.sleepers)
        with valkey.client() as client:
            lease = lease_key(client)
            client.set(lease, "another", px=2000)
            clock.wake(1.0)
            await until(lambda: clock.sleepers)  # it has renewed
            assert client.pttl(lease) <= 2000
            upstream.release()
            assert (await first).value == b"value 1"
            assert client.get(lease) == b"another"
            assert len(client.keys("qpg:cache:*")) == 2  # what was fetched is shared all the same


@pytest.mark.parametrize("ends", [None, 3_600_000])
async def test_a_lease_that_would_not_end_in_time_is_nobodys(valkey: ValkeyServer, ends: int | None) -> None:
    upstream = Upstream()
    async with replicas(valkey.url, 1) as [one]:
        upstream.hold()
        reader = one.reading(upstream)
        await upstream.called()
        with valkey.client() as client:
            lease = lease_key(client)
            await one.cache.close()
            with pytest.raises(NotReady):
                await reader
            client.set(lease, "a process before the clock was set back", px=ends)
            async with replicas(valkey.url, 1) as [other]:
                upstream.release()
                assert (await other.read(upstream)).served is Served.MISS
            assert client.exists(lease) == 0


async def test_a_reader_waits_for_another_replica_no_longer_than_the_deadline(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replicas(valkey.url, 2, timeout=0.3) as (one, other):
        first = one.reading(upstream)
        await upstream.called()
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            await other.read(upstream)
        assert 0.3 <= time.monotonic() - started < 5
        assert upstream.calls == 1
        upstream.release()
        assert (await first).served is Served.MISS


async def test_who_waited_in_vain_gets_the_stale_value(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replicas(valkey.url, 2, timeout=0.3) as (one, other):
        await one.read(upstream, fresh_for=0.01)
        await asyncio.sleep(0.02)
        upstream.hold()
        first = one.reading(upstream, fresh_for=0.01)
        await upstream.called(2)
        found = await other.read(upstream, fresh_for=0.01)
        assert (found.value, found.served, found.attempted) == (b"value 1", Served.STALE, False)
        assert isinstance(found.failure, UpstreamTimeout)
        upstream.release()
        assert (await first).value == b"value 2"


async def test_a_waiter_who_hangs_up_leaves_nothing_behind(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replicas(valkey.url, 2) as (one, other):
        first = one.reading(upstream)
        await upstream.called()
        second = other.reading(upstream)
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        upstream.release()
        await first
        await until(lambda: not other.cache._aloft)
        assert (await other.read(upstream)).served is Served.HIT  # its flight went on and landed
        assert upstream.calls == 1


FOREIGN = [
    b"",
    b"value 0",
    b"qpg0 1775000000000 30000 300000\nvalue 0",
    b"qpg1 1775000000000 30000\nvalue 0",
    b"qpg1 1775000000000 30000 300000 value 0",
    b"qpg1 -5 30000 300000\nvalue 0",
    b"qpg1 1775000000000 3e4 300000\nvalue 0",
    b"\xff\x00" * 50,
]


@pytest.mark.parametrize("stored", FOREIGN)
async def test_what_is_not_ours_in_redis_counts_as_absent(valkey: ValkeyServer, stored: bytes) -> None:
    await absent(valkey, lambda client, key: client.set(key, stored, px=60_000))


@pytest.mark.parametrize(
    ("stored", "lives"),
    [
        (b"qpg1 1775000000000 30000 300000\nvalue 0", None),
        (b"qpg1 1775000000000 30000 300000\nvalue 0", 331_000),
        (b"qpg1 99999999999999 30000 300000\nvalue 0", None),
    ],
    ids=["no end", "more life than it was given", "from the future"],
)
async def test_an_entry_whose_age_is_unknown_counts_as_absent(
    valkey: ValkeyServer, stored: bytes, lives: int | None
) -> None:
    await absent(valkey, lambda client, key: client.set(key, stored, px=lives))


async def test_another_type_in_redis_counts_as_absent(valkey: ValkeyServer) -> None:
    await absent(valkey, lambda client, key: client.rpush(key, "value 0"))


async def absent(valkey: ValkeyServer, spoil: Callable[[redis.Redis, str], object]) -> None:
    """Check that a read does not serve what `spoil` writes, and puts something good in its place."""
    upstream = Upstream()
    async with replicas(valkey.url, 3) as (one, other, third):
        await one.read(upstream)
        with valkey.client() as client:
            [key] = client.keys("qpg:cache:*")
            client.delete(key)
            spoil(client, key)
            assert (await other.read(upstream)).value == b"value 2"
            assert client.pttl(key) > 300_000
        assert (await third.read(upstream)).value == b"value 2"


async def test_what_is_too_long_to_share_is_answered_and_its_lease_freed(valkey: ValkeyServer) -> None:
    calls = 0

    async def fetch() -> Fetched:
        nonlocal calls
        calls += 1
        return Fetched(b"x" * (MOST_BYTES + calls - 1))

    async with replicas(valkey.url, 2) as (one, other):
        assert len((await one.read(fetch)).value) == MOST_BYTES
        with valkey.client() as client:
            assert len(client.keys("qpg:cache:*")) == 1
            client.flushall()
            assert len((await other.read(fetch)).value) == MOST_BYTES + 1
            assert client.keys("qpg:cache:*") == []
        assert (await other.read(fetch)).served is Served.HIT


class HeldRedis:
    """The script on a Redis whose clock the test moves; expiry still runs on the real one."""

    def __init__(self, store: Store, client: redis.Redis) -> None:
        script = Script.load("gateway.store", "cache.lua")
        held = f'{{redis.call("GET", "{TIME_KEY}"), "0"}}'
        assert 'redis.call("TIME")' in script.text
        self._script = dataclasses.replace(script, text=script.text.replace('redis.call("TIME")', held))
        self._store = store
        self._client = client
        self.clock = HeldClock()
        self.set_time(1_775_000_000)

    def set_time(self, seconds: int) -> None:
        self._client.set(TIME_KEY, seconds)

    def entry(self) -> SharedEntry:
        return SharedEntry(KEY.text, store=self._store, script=self._script, clock=self.clock)

    def fetched(self, value: bytes) -> Entry:
        now = self.clock.monotonic()
        return Entry(value, asked_at=now, fetched_at=now, fresh_for=FRESH, stale_for=300.0)

    async def value(self) -> bytes | None:
        look = await self.entry().look(wanted=FRESH, lease=False)
        return look.entry and look.entry.value

    def left(self) -> float:
        [key] = [key for key in self._client.keys("qpg:cache:*") if not key.endswith(b":lease")]
        return self._client.pttl(key) / 1000


@asynccontextmanager
async def held_redis(valkey: ValkeyServer) -> AsyncIterator[HeldRedis]:
    store = Store(connect(valkey.url), clock=SystemClock(), metrics=Metrics(), deadline=5)
    with valkey.client() as client:
        yield HeldRedis(store, client)
    await store.close()


async def test_what_was_asked_for_later_stays_whichever_comes_last(valkey: ValkeyServer) -> None:
    async with held_redis(valkey) as held:
        early, late = held.entry(), held.entry()
        asked_early = await early.look(wanted=FRESH, lease=True)
        held.set_time(1_775_000_004)
        asked_late = await late.look(wanted=FRESH, lease=False)
        await late.keep(held.fetched(b"late"), asked_late)
        await early.keep(held.fetched(b"early"), asked_early)
        assert await held.value() == b"late"
        # The lease is free all the same.
        assert (await held.entry().look(wanted=0, lease=True)).leased


async def test_what_was_asked_for_earlier_is_kept_until_there_is_something_newer(valkey: ValkeyServer) -> None:
    async with held_redis(valkey) as held:
        early, late = held.entry(), held.entry()
        asked_early = await early.look(wanted=FRESH, lease=True)
        await early.let_go()
        held.set_time(1_775_000_004)
        asked_late = await late.look(wanted=FRESH, lease=True)
        await early.keep(held.fetched(b"early"), asked_early)
        assert await held.value() == b"early"
        assert not (await held.entry().look(wanted=0, lease=True)).leased  # it is the other's still
        await late.keep(held.fetched(b"late"), asked_late)
        assert await held.value() == b"late"


async def test_an_entry_from_before_the_clock_was_set_back_does_not_stay(valkey: ValkeyServer) -> None:
    async with held_redis(valkey) as held:
        for seconds, value in ((1_775_000_000, b"before"), (1_774_990_000, b"after")):
            held.set_time(seconds)
            entry = held.entry()
            await entry.keep(held.fetched(value), await entry.look(wanted=FRESH, lease=True))
            assert await held.value() == value
        entry = held.entry()
        look = await entry.look(wanted=FRESH, lease=True)
        held.set_time(1_774_980_000)  # while it is fetched
        await entry.keep(held.fetched(b"during"), look)
        assert await held.value() == b"during"
        assert 325 < held.left() <= 330


@pytest.mark.parametrize(("late", "left"), [(0, 330), (60, 270), (329, 1)])
async def test_a_late_command_does_not_make_its_value_any_younger(valkey: ValkeyServer, late: int, left: int) -> None:
    async with held_redis(valkey) as held:
        entry = held.entry()
        look = await entry.look(wanted=FRESH, lease=True)
        held.clock.now += 8.0
        held.set_time(1_775_000_008 + late)
        await entry.keep(held.fetched(b"value"), look)
        assert left - 1 < held.left() <= left


async def test_a_command_that_comes_too_late_writes_nothing(valkey: ValkeyServer) -> None:
    async with held_redis(valkey) as held:
        entry = held.entry()
        look = await entry.look(wanted=FRESH, lease=True)
        held.set_time(1_775_000_331)
        await entry.keep(held.fetched(b"value"), look)
        assert await held.value() is None
        assert (await held.entry().look(wanted=0, lease=True)).leased


async def read_without_redis(member: Replica, upstream: Upstream, calls: int) -> None:
    """Check that reads go on, coalesced in the process, within two steps of 100 ms at most, and are at hand then."""
    key = CacheKey("get-balances", f"without redis {calls}")
    started = time.monotonic()
    found = await asyncio.gather(*(member.read(upstream, key=key) for _ in range(10)))
    assert time.monotonic() - started < 1  # a very generous reading, for a busy machine
    assert upstream.calls == calls
    assert sorted(each.served for each in found) == ["collapsed"] * 9 + ["miss"]
    assert (await member.read(upstream, key=key)).served is Served.HIT


def break_it(server: ValkeyServer, fault: str) -> None:
    if fault == "killed":
        server.kill()
    else:
        server.pause()


async def mend_it(server: ValkeyServer, fault: str, *members: Replica) -> None:
    """Bring it back, and wait until it is found."""
    if fault == "killed":
        server.restart()
    else:
        server.resume()
    for member in members:
        await until_back(member.store)


async def until_back(store: Store) -> None:
    """Wait until a command succeeds: being up can be a moment older than a doubt."""
    async with asyncio.timeout(5):
        while True:
            try:
                await store.run(lambda redis: redis.ping())
            except StorageUnavailable:
                await asyncio.sleep(0.01)
            else:
                return


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_without_redis_a_process_goes_on_alone_and_comes_back(valkey_factory: ValkeyFactory, fault: str) -> None:
    server, upstream = valkey_factory(), Upstream()
    async with replicas(server.url, 2, deadline=0.1) as (one, other):
        break_it(server, fault)
        for calls in (1, 2):
            await read_without_redis(one, upstream, calls)
        await mend_it(server, fault, one, other)
        again = CacheKey("get-balances", "again")
        assert (await one.read(upstream, key=again)).served is Served.MISS
        assert (await other.read(upstream, key=again)).served is Served.HIT


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_redis_lost_during_the_fetch_loses_no_answer(valkey_factory: ValkeyFactory, fault: str) -> None:
    server, upstream = valkey_factory(), Upstream()
    upstream.hold()
    async with replicas(server.url, 1, deadline=0.1) as [one]:
        readers = [one.reading(upstream) for _ in range(10)]
        await upstream.called()
        break_it(server, fault)
        upstream.release()
        started = time.monotonic()
        found = await asyncio.gather(*readers)
        assert time.monotonic() - started < 1
        assert {each.value for each in found} == {b"value 1"}
        assert (await one.read(upstream)).served is Served.HIT
        await mend_it(server, fault, one)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_redis_lost_during_a_fetch_that_fails_changes_nothing(valkey_factory: ValkeyFactory, fault: str) -> None:
    server, upstream = valkey_factory(), Upstream()
    upstream.hold()
    upstream.fails = UpstreamUnavailable()
    async with replicas(server.url, 1, deadline=0.1) as [one]:
        reader = one.reading(upstream)
        await upstream.called()
        break_it(server, fault)
        upstream.release()
        with pytest.raises(UpstreamUnavailable):
            await reader
        await mend_it(server, fault, one)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_who_waits_for_another_replica_when_redis_is_lost_fetches_alone(
    valkey_factory: ValkeyFactory, fault: str
) -> None:
    server, upstream = valkey_factory(), Upstream()
    upstream.hold()
    async with replicas(server.url, 2, deadline=0.1) as (one, other):
        first = one.reading(upstream)
        await upstream.called()
        second = other.reading(upstream)
        await asyncio.sleep(0.05)
        assert upstream.calls == 1
        break_it(server, fault)
        await upstream.called(2)
        upstream.release()
        assert {each.served for each in await asyncio.gather(first, second)} == {Served.MISS}
        await mend_it(server, fault, one, other)


@pytest.mark.parametrize("failing", [1, 2], ids=["the look", "the keep"])
async def test_a_redis_that_was_slow_once_costs_no_second_call(valkey: ValkeyServer, failing: int) -> None:
    upstream = Upstream()
    async with replicas(valkey.url, 2) as (one, other):
        commands = 0
        run = one.store.run

        async def slow_once(command):
            nonlocal commands
            commands += 1
            if commands == failing:
                raise StorageUnavailable
            return await run(command)

        one.store.run = slow_once
        assert (await one.read(upstream)).served is Served.MISS
        assert (await other.read(upstream)).served is Served.HIT
    assert upstream.calls == 1


async def test_a_renewal_that_finds_no_redis_is_tried_again(valkey_factory: ValkeyFactory) -> None:
    server, clock, upstream = valkey_factory(), HeldClock(), Upstream()
    upstream.hold()
    async with replicas(server.url, 1, clock=clock, deadline=0.1) as [one]:
        reader = one.reading(upstream)
        await upstream.called()
        await until(lambda: clock.sleepers)
        server.pause()
        clock.wake(1.0)
        await until(lambda: clock.sleepers)
        server.resume()
        await until_back(one.store)
        with server.client() as client:
            lease = lease_key(client)
            async with asyncio.timeout(5):
                while client.pttl(lease) < 2500:
                    clock.wake(0.0)
                    await until(lambda: clock.sleepers)
                    await asyncio.sleep(0.01)
        upstream.release()
        assert (await reader).served is Served.MISS


async def test_a_lease_taken_late_by_a_frozen_redis_is_freed(valkey_factory: ValkeyFactory) -> None:
    server, upstream = valkey_factory(), Upstream()
    async with replicas(server.url, 1, deadline=0.1) as [one]:
        await one.read(upstream, key=CacheKey("get-balances", "so that the server has the script"))
        upstream.hold()
        server.pause()
        reader = one.reading(upstream)
        await upstream.called(2)  # without the lease, as Redis did not answer
        server.resume()
        with server.client() as client:
            await until(lambda: client.keys("qpg:cache:*:lease"))
            await until_back(one.store)
            upstream.release()
            assert (await reader).served is Served.MISS
            assert client.keys("qpg:cache:*:lease") == []
