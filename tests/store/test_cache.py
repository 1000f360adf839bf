"""The read cache of one process on a real Valkey: freshness, coalescing, stale answers, and what is left behind."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import redis

from gateway.clock import SystemClock
from gateway.errors import (
    FunctionNotSupported,
    GatewayError,
    NotReady,
    Overloaded,
    UpstreamBudgetExhausted,
    UpstreamClockSkew,
    UpstreamCredentialsRejected,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.store.cache import Cache, CacheKey, Fetched, Found, Served
from gateway.store.client import connect
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.valkey import ValkeyServer

KEY = CacheKey("get-balances", "account|get-balances|balances|")
FRESH = 30.0


class HeldClock(SystemClock):
    """A clock that a test moves; its sleepers wake when their time has come."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        due = asyncio.Event()
        self._sleepers.append((self.now + seconds, due))
        await due.wait()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for until, due in self._sleepers:
            if until <= self.now:
                due.set()


class Upstream:
    """Counts its calls, and answers each with another value; can be held, and made to fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails: Exception | None = None
        self.fresh_for: float | None = None
        self._open = asyncio.Event()
        self._open.set()

    async def __call__(self) -> Fetched:
        self.calls += 1
        number = self.calls
        await self._open.wait()
        if self.fails is not None:
            raise self.fails
        return Fetched(b"value %d" % number, self.fresh_for)

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
    """A cache with a connection of its own, and how its reads are counted."""

    def __init__(self, url: str, *, timeout: float = 5.0, clock: SystemClock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.metrics = Metrics()
        # Patient, so that a busy machine is not taken for a Redis that is away.
        self.store = Store(connect(url), clock=SystemClock(), metrics=self.metrics, deadline=5)
        self.cache = Cache(self.store, clock=self.clock, metrics=self.metrics, timeout=timeout)

    async def read(
        self, fetch: Callable[[], Awaitable[Fetched]], *, key: CacheKey = KEY, fresh_for: float = FRESH, **more: bool
    ) -> Found:
        return await self.cache.read(key, fresh_for=fresh_for, fetch=fetch, **more)

    def counted(self) -> dict[str, float]:
        results = {}
        for result in Served:
            labels = {"function": KEY.function, "result": result.value}
            if value := self.metrics.registry.get_sample_value("gateway_cache_lookups_total", labels):
                results[result.value] = value
        return results


@asynccontextmanager
async def replica(url: str, **options: object) -> AsyncIterator[Replica]:
    """A cache that must leave no flight and no task behind."""
    before = asyncio.all_tasks()
    one = Replica(url, **options)
    try:
        yield one
    finally:
        await one.cache.close()
        await one.store.close()
    await until(lambda: not one.cache._aloft)
    assert not one.cache._flights
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


def entry_key(client: redis.Redis) -> str:
    """Return the Redis key of the only entry."""
    [key] = [key.decode() for key in client.keys("qpg:cache:*") if not key.endswith(b":lease")]
    return key


def age_by(client: redis.Redis, seconds: float) -> None:
    """Make the only entry in Redis older."""
    key = entry_key(client)
    assert client.pexpire(key, client.pttl(key) - int(seconds * 1000))


async def test_a_value_is_fetched_once_and_then_at_hand(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one:
        assert await one.read(upstream) == Found(b"value 1", Served.MISS, age=0, fresh_for=FRESH)
        clock.advance(29.5)
        assert await one.read(upstream) == Found(b"value 1", Served.HIT, age=29.5, fresh_for=FRESH)
        assert one.counted() == {"miss": 1, "hit": 1}
    assert upstream.calls == 1


async def test_a_value_at_hand_costs_no_task_and_no_redis(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one:
        await one.read(upstream)
        coroutine = one.read(upstream)
        with pytest.raises(StopIteration) as ended:  # it never waits for anything
            coroutine.send(None)
        assert ended.value.value.served is Served.HIT


async def test_freshness_ends_by_redis_clock(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one:
        await one.read(upstream)
        clock.advance(FRESH)
        found = await one.read(upstream)
        assert (found.value, found.served) == (b"value 1", Served.HIT)  # our clock is fast: Redis says it is fresh
        assert found.age < 5
        with valkey.client() as client:
            age_by(client, FRESH)
        clock.advance(FRESH)
        found = await one.read(upstream)
        assert (found.value, found.served) == (b"value 2", Served.MISS)


async def test_another_replica_learns_the_age_from_redis(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one, replica(valkey.url, clock=HeldClock()) as other:
        await one.read(upstream)
        with valkey.client() as client:
            age_by(client, 10)
        for _ in range(2):  # from Redis, then at hand
            found = await other.read(upstream)
            assert (found.value, found.served, found.fresh_for) == (b"value 1", Served.HIT, FRESH)
            assert 10 <= found.age < 15
        other.clock.advance(20)
        with valkey.client() as client:
            age_by(client, 20)
        assert (await other.read(upstream)).served is Served.MISS


async def test_keys_in_redis_are_hashes_in_one_slot_and_always_end(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replica(valkey.url) as one:
        reading = asyncio.create_task(one.read(upstream))
        await upstream.called()
        with valkey.client() as client:
            [lease] = client.keys("qpg:cache:*")
            assert 0 < client.pttl(lease) <= 3000
            upstream.release()
            await reading
            [entry] = client.keys("qpg:cache:*")
            assert 325_000 < client.pttl(entry) <= 330_000
        assert lease == entry + b":lease"
        name = entry.removeprefix(b"qpg:cache:{").removesuffix(b"}")
        assert len(name) == 32
        assert int(name, 16)


async def test_keys_are_kept_apart(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one, replica(valkey.url) as other:
        for number in range(1, 4):
            key = CacheKey("get-exchange-rates", f"account|rate|{number}")
            assert (await one.read(upstream, key=key)).value == b"value %d" % number
            assert (await other.read(upstream, key=key)).value == b"value %d" % number


async def test_fifty_reads_at_once_are_one_fetch(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replica(valkey.url) as one:
        readers = [asyncio.create_task(one.read(upstream)) for _ in range(50)]
        await upstream.called()
        upstream.release()
        found = await asyncio.gather(*readers)
        assert upstream.calls == 1
        assert {each.value for each in found} == {b"value 1"}
        assert [each.served for each in found] == [Served.MISS] + [Served.COLLAPSED] * 49
        assert one.counted() == {"miss": 1, "collapsed": 49}


async def test_a_reader_who_hangs_up_ends_nobody_elses_read(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replica(valkey.url) as one:
        readers = [asyncio.create_task(one.read(upstream)) for _ in range(4)]
        await upstream.called()
        for reader in (readers[0], readers[2]):
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
        upstream.release()
        found = await asyncio.gather(readers[1], readers[3])
        assert [each.served for each in found] == [Served.COLLAPSED] * 2
        assert upstream.calls == 1


@pytest.mark.parametrize("fails", [None, UpstreamTimeout()])
async def test_when_every_reader_hangs_up_the_fetch_still_ends_and_is_kept(
    valkey: ValkeyServer, fails: Exception | None
) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replica(valkey.url) as one, replica(valkey.url) as other:
        reader = asyncio.create_task(one.read(upstream))
        await upstream.called()
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader
        upstream.fails = fails
        upstream.release()
        await until(lambda: not one.cache._aloft)
        upstream.fails = None
        for each in (one, other):
            assert (await each.read(upstream)).value == (b"value 2" if fails else b"value 1")


@pytest.mark.parametrize("error", [UpstreamTimeout("late", retry_after=3), UpstreamRejected(upstream_code="no-such")])
async def test_every_reader_gets_an_error_of_their_own(valkey: ValkeyServer, error: GatewayError) -> None:
    upstream = Upstream()
    upstream.fails = error
    error.upstream_status = 500
    async with replica(valkey.url) as one:
        outcomes = await asyncio.gather(*(one.read(upstream) for _ in range(5)), return_exceptions=True)
        assert upstream.calls == 1
        assert len({id(outcome) for outcome in (*outcomes, error)}) == 6
        for outcome in outcomes:
            assert type(outcome) is type(error)
            assert vars(outcome) == vars(error)
            assert str(outcome) == str(error)
        assert one.counted() == {}


async def test_a_bug_reaches_every_reader_with_where_it_happened(valkey: ValkeyServer) -> None:
    async def buggy() -> Fetched:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    async with replica(valkey.url) as one:
        lengths = []

        async def reader() -> None:
            with pytest.raises(ZeroDivisionError) as caught:
                await one.read(buggy)
            names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert names[-1] == "buggy"
            lengths.append(len(names))

        await asyncio.gather(*(reader() for _ in range(5)))
        assert len(set(lengths)) == 1
        with valkey.client() as client:
            assert client.keys("qpg:cache:*") == []


UNWELL = [
    UpstreamInvalidResponse,
    UpstreamUnavailable,
    UpstreamTimeout,
    UpstreamThrottled,
    UpstreamBudgetExhausted,
    Overloaded,
]


@pytest.mark.parametrize("kind", UNWELL)
async def test_while_upstream_is_unwell_a_stale_value_is_served(valkey: ValkeyServer, kind: type[GatewayError]) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one:
        await one.read(upstream)
        valkey.flush()
        clock.advance(FRESH + 1)
        upstream.fails = kind(retry_after=7)
        found = await asyncio.gather(*(one.read(upstream) for _ in range(3)))
        for each in found:
            assert (each.value, each.served, each.age, each.fresh_for) == (b"value 1", Served.STALE, 31, 30)
            assert isinstance(each.failure, kind)
            assert each.failure.retry_after == 7
            assert each.failure.__traceback__ is None
            assert each.attempted
        assert upstream.calls == 2
        assert one.counted() == {"miss": 1, "stale": 3}


@pytest.mark.parametrize(
    "kind",
    [UpstreamRejected, FunctionNotSupported, UpstreamCredentialsRejected, UpstreamClockSkew, ZeroDivisionError],
)
async def test_a_refusal_or_a_bug_is_never_hidden_behind_a_stale_value(
    valkey: ValkeyServer, kind: type[Exception]
) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one:
        await one.read(upstream)
        valkey.flush()
        clock.advance(FRESH)
        upstream.fails = kind()
        with pytest.raises(kind):
            await one.read(upstream)


async def test_a_value_is_stale_for_five_minutes_and_no_longer_in_memory(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one:
        await one.read(upstream)
        valkey.flush()
        upstream.fails = UpstreamUnavailable()
        clock.advance(FRESH + 299)
        assert (await one.read(upstream)).served is Served.STALE
        clock.advance(2)
        with pytest.raises(UpstreamUnavailable):
            await one.read(upstream)
        assert upstream.calls == 3


async def test_a_value_is_stale_for_five_minutes_and_no_longer_in_redis(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one, replica(valkey.url) as other, replica(valkey.url) as third:
        await one.read(upstream)
        upstream.fails = UpstreamUnavailable()
        with valkey.client() as client:
            client.pexpire(entry_key(client), 10_000)
            found = await other.read(upstream)
            assert (found.value, found.served) == (b"value 1", Served.STALE)
            assert FRESH + 290 <= found.age < FRESH + 300
            client.pexpire(entry_key(client), 0)
        with pytest.raises(UpstreamUnavailable):
            await third.read(upstream)


async def test_after_a_stale_answer_upstream_rests_for_five_seconds(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one:
        await one.read(upstream)
        valkey.flush()
        clock.advance(FRESH)
        upstream.fails = UpstreamUnavailable()
        assert (await one.read(upstream)).attempted
        clock.advance(4.9)
        for _ in range(3):
            found = await one.read(upstream)
            assert (found.served, found.attempted, type(found.failure)) == (Served.STALE, False, UpstreamUnavailable)
        assert upstream.calls == 2
        assert (await one.read(upstream, force=True)).attempted  # who insists is not held back
        assert upstream.calls == 3
        clock.advance(5)
        upstream.fails = None
        assert (await one.read(upstream)).served is Served.MISS
        assert (await one.read(upstream)).served is Served.HIT
        assert upstream.calls == 4


async def test_a_forced_read_fetches_and_what_it_got_is_for_all(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one, replica(valkey.url) as other:
        await one.read(upstream)
        found = await one.read(upstream, force=True)
        assert (found.value, found.served) == (b"value 2", Served.MISS)
        for each in (one, other):
            found = await each.read(upstream)
            assert (found.value, found.served) == (b"value 2", Served.HIT)
    assert upstream.calls == 2


async def test_a_forced_read_joins_nobody_and_nobody_joins_it(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    upstream.hold()
    async with replica(valkey.url) as one:
        readers = [asyncio.create_task(one.read(upstream))]
        await upstream.called()
        for calls in (2, 3):  # one after the other: which of two asks first is up to their connections
            readers.append(asyncio.create_task(one.read(upstream, force=True)))
            await upstream.called(calls)
        readers.append(asyncio.create_task(one.read(upstream)))
        await asyncio.sleep(0)
        upstream.release()
        found = await asyncio.gather(*readers)
        assert [each.served for each in found] == [Served.MISS] * 3 + [Served.COLLAPSED]
        assert [each.value for each in found[:3]] == [b"value 1", b"value 2", b"value 3"]
        assert found[3].value == b"value 1"
        assert (await one.read(upstream)).value == b"value 3"  # of all that ended, the one asked for last


async def test_a_forced_read_that_fails_serves_what_there_is(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one, replica(valkey.url) as other:
        await one.read(upstream)
        upstream.fails = UpstreamUnavailable()
        with valkey.client() as client:
            age_by(client, 10)
        clock.advance(10)
        found = await one.read(upstream, force=True)
        assert (found.value, found.served, found.attempted) == (b"value 1", Served.STALE, True)
        assert 10 <= found.age < 15
        assert (await one.read(upstream)).served is Served.HIT
        assert (await other.read(upstream, force=True)).value == b"value 1"  # which it only saw in Redis
        valkey.flush()
        with pytest.raises(UpstreamUnavailable):
            await one.read(upstream, key=CacheKey("get-balances", "another"), force=True)


@pytest.mark.parametrize("force", [False, True])
async def test_what_is_fresh_for_no_time_is_kept_nowhere(valkey: ValkeyServer, force: bool) -> None:
    upstream = Upstream()
    upstream.fresh_for = 60.0
    async with replica(valkey.url) as one:
        for number in (1, 2):
            found = await one.read(upstream, fresh_for=0, force=force)
            assert (found.value, found.served, found.fresh_for) == (b"value %d" % number, Served.MISS, 0)
        with valkey.client() as client:
            assert client.keys("qpg:cache:*") == []
        upstream.fails = UpstreamUnavailable()
        with pytest.raises(UpstreamUnavailable):
            await one.read(upstream, fresh_for=0, force=force)


async def test_what_is_fresh_for_no_time_is_coalesced_all_the_same(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one:
        found = await asyncio.gather(*(one.read(upstream, fresh_for=0) for _ in range(10)))
        assert [each.served for each in found] == [Served.MISS] + [Served.COLLAPSED] * 9
        assert upstream.calls == 1


async def test_once_switched_off_nothing_kept_before_is_served(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one:
        await one.read(upstream)
        assert (await one.read(upstream, fresh_for=0)).value == b"value 2"
        upstream.fails = UpstreamUnavailable()
        with pytest.raises(UpstreamUnavailable):
            await one.read(upstream, fresh_for=0)


async def test_a_shorter_freshness_holds_at_once_for_what_was_kept_before(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one, replica(valkey.url) as other:
        await one.read(upstream, fresh_for=600)
        clock.advance(20)
        with valkey.client() as client:
            age_by(client, 20)
        found = await one.read(upstream, fresh_for=21)
        assert (found.served, found.fresh_for) == (Served.HIT, 21)
        assert (await other.read(upstream, fresh_for=60)).fresh_for == 60
        assert (await one.read(upstream, fresh_for=10)).served is Served.MISS


async def test_a_value_may_have_a_lifetime_of_its_own(valkey: ValkeyServer) -> None:
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock) as one, replica(valkey.url) as other:
        upstream.fresh_for = 60.0
        assert (await one.read(upstream)).fresh_for == 60
        with valkey.client() as client:
            assert 55_000 < client.pttl(entry_key(client)) <= 60_000
            age_by(client, 50)
        clock.advance(50)
        for each in (one, other):  # longer than what is asked for here
            found = await each.read(upstream)
            assert (found.value, found.served, found.fresh_for) == (b"value 1", Served.HIT, 60)
        with valkey.client() as client:
            client.pexpire(entry_key(client), 0)
        clock.advance(10)
        upstream.fails = UpstreamUnavailable()
        with pytest.raises(UpstreamUnavailable):  # never stale
            await one.read(upstream)
        upstream.fails, upstream.fresh_for = None, 0.0
        for _ in range(2):
            assert (await one.read(upstream)).served is Served.MISS


async def test_a_fetch_that_never_ends_is_ended(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.flight.MARGIN", 0.0)
    upstream = Upstream()
    async with replica(valkey.url, timeout=0.05) as one:
        upstream.hold()
        with pytest.raises(UpstreamTimeout):
            await one.read(upstream)
        await until(lambda: not one.cache._aloft)
        with valkey.client() as client:
            assert client.keys("qpg:cache:*") == []
        upstream.release()
        assert (await one.read(upstream)).served is Served.MISS


async def test_a_reader_goes_at_their_time_though_the_flight_goes_on(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.cache.MARGIN", 0.0)
    clock, upstream = HeldClock(), Upstream()
    async with replica(valkey.url, clock=clock, timeout=0.05) as one:
        await one.read(upstream)
        valkey.flush()
        clock.advance(FRESH)
        upstream.hold()
        found = await one.read(upstream)
        assert (found.value, found.served, found.attempted) == (b"value 1", Served.STALE, True)
        assert isinstance(found.failure, UpstreamTimeout)
        upstream.release()
        await until(lambda: not one.cache._aloft)
        assert (await one.read(upstream)).value == b"value 2"


async def test_closing_ends_flights_frees_their_leases_and_tells_their_readers(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one:
        await one.read(upstream, key=CacheKey("get-balances", "kept"))
        upstream.hold()
        readers = [asyncio.create_task(one.read(upstream, force=force)) for force in (False, False, True)]
        await upstream.called(3)
        await one.cache.close()
        outcomes = await asyncio.gather(*readers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotReady] * 3
        with valkey.client() as client:
            assert client.keys("qpg:cache:*:lease") == []
        with pytest.raises(NotReady):
            await one.read(upstream)
        assert (await one.read(upstream, key=CacheKey("get-balances", "kept"))).served is Served.HIT
        await one.cache.close()


async def test_closing_ends_a_flight_whose_cancellation_gets_lost(valkey: ValkeyServer) -> None:
    began = asyncio.Event()

    async def fetch() -> Fetched:
        began.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()
        return Fetched(b"never")

    async with replica(valkey.url) as one:
        reader = asyncio.create_task(one.read(fetch))
        await began.wait()
        async with asyncio.timeout(5):
            await one.cache.close()
        with pytest.raises(NotReady):
            await reader


async def test_memory_is_bounded_and_redis_knows_the_rest(valkey: ValkeyServer) -> None:
    upstream = Upstream()
    async with replica(valkey.url) as one:
        small = Cache(one.store, clock=one.clock, metrics=one.metrics, timeout=5, most_entries=3, most_bytes=10_000)
        for number in range(6):
            await small.read(CacheKey("get-balances", str(number)), fresh_for=FRESH, fetch=upstream)
        assert len(small._local) == 3
        assert (await small.read(CacheKey("get-balances", "0"), fresh_for=FRESH, fetch=upstream)).served is Served.HIT
        assert upstream.calls == 6
        await small.close()
