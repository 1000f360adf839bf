"""Places for event streams on a real Valkey: over processes, after kills and losses, and while Redis is away."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from redis.crc import key_slot

from gateway.access import streams
from gateway.access.streams import MOST_AT_ONCE, RENEWAL, RENEWAL_AGAIN, RETRY_AFTER, Slot, StreamSlots
from gateway.clock import SystemClock
from gateway.errors import TooManyStreams
from gateway.store.client import DEADLINE, RedisClient, connect
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.gateway import PATIENCE
from tests.plugins.timing import quickest
from tests.plugins.valkey import ValkeyServer

ValkeyFactory = Callable[[], ValkeyServer]
HELD_TIME = "held:now"
START = 1_775_000_000
"""A time of 2026, in seconds."""


class HeldClock(SystemClock):
    """A clock whose sleepers wake when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._wake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._wake.wait()


class CountingStore(Store):
    """A store that counts what it is asked, and can hold it up on the way."""

    asked = 0
    held: asyncio.Event | None = None

    async def run(self, command: Callable[[RedisClient], Awaitable[object]]) -> object:
        self.asked += 1
        if self.held:
            await self.held.wait()
        return await super().run(command)


@dataclass
class Process:
    """One process's slots, and what they are made of."""

    slots: StreamSlots
    store: CountingStore
    clock: HeldClock
    metrics: Metrics

    async def take(
        self,
        *,
        client: str = "shop",
        subject: str | None = None,
        session: str | None = None,
        most: int = 1000,
    ) -> Slot:
        """Take a slot; each watches a session of its own, unless told."""
        session = session or self.clock.token_hex(8)
        return await self.slots.take(client, subject=subject, session_id=session, most=most)

    async def fits(self, **what: object) -> bool:
        try:
            await self.take(**what)
        except TooManyStreams:
            return False
        return True

    async def renew(self) -> None:
        """Wake the renewal, and return when it is done."""
        before = len(self.clock.asked)
        self.clock._wake.set()
        self.clock._wake = asyncio.Event()
        async with asyncio.timeout(5):
            while len(self.clock.asked) == before:
                await asyncio.sleep(0.001)

    @property
    def open(self) -> float | None:
        return self.metrics.registry.get_sample_value("gateway_event_streams")


@asynccontextmanager
async def process(server: ValkeyServer, *, processes: int = 1, deadline: float = PATIENCE) -> AsyncIterator[Process]:
    """Only tests of outages have the real deadline: a busy machine is none."""
    metrics, clock = Metrics(), HeldClock()
    redis = connect(server.url, deadline=deadline)
    store = CountingStore(redis, clock=SystemClock(), metrics=metrics, deadline=deadline)
    await store.start()
    slots = StreamSlots(store, clock=clock, share=lambda: processes, metrics=metrics)
    await slots.start()
    await asyncio.sleep(0)  # the renewal goes to sleep
    try:
        yield Process(slots, store, clock, metrics)
    finally:
        await slots.close()
        await store.close()


def places(server: ValkeyServer) -> dict[str, int]:
    """Return how many places are taken, by the key of the limit; every key must end by itself."""
    with server.client() as client:
        keys = {key.decode() for key in client.scan_iter("qpg:*")} - {"qpg:probe"}
        assert all(0 < client.pttl(key) <= 45_000 for key in keys)
        return {key: client.zcard(key) for key in keys}


@pytest.fixture
def redis_time(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Hold Redis's clock, for scripts made from now on; move it to so many seconds after the start."""

    def held(script: Script) -> Script:
        text = script.text.replace('redis.call("TIME")', f'{{redis.call("GET", "{HELD_TIME}"), 0}}')
        assert text != script.text
        return replace(script, text=text)

    load = Script.load
    monkeypatch.setattr(Script, "load", lambda package, name: held(load(package, name)))
    monkeypatch.setattr(streams, "_RENEW", held(streams._RENEW))

    def move(seconds: float) -> None:
        with valkey.client() as client:
            client.set(HELD_TIME, f"{START + seconds:.0f}")

    move(0)
    return move


async def test_a_client_has_its_most_over_all_processes(valkey: ValkeyServer) -> None:
    async with process(valkey) as one, process(valkey) as other:
        held = [await (one, other)[n % 2].take(most=7) for n in range(7)]
        assert not await one.fits(most=7)
        assert not await other.fits(most=7)
        assert await other.fits(client="market", most=7)
        await held[0].release()
        assert await other.fits(most=7)
        assert not await one.fits(most=7)
        assert (one.open, other.open) == (3, 5)


async def test_a_refusal_says_when_to_ask_again(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        await one.take(most=1)
        with pytest.raises(TooManyStreams) as refusal:
            await one.take(most=1)
        assert refusal.value.retry_after == RETRY_AFTER
        assert RETRY_AFTER >= 1


async def test_never_more_than_the_most_also_if_all_come_at_once(valkey: ValkeyServer) -> None:
    async with process(valkey) as one, process(valkey) as other:
        for most in (1, 5, 12):
            took = await asyncio.gather(*(p.fits(client=f"c{most}", most=most) for p in [one, other] * 20))
            assert sum(took) == most
            assert places(valkey)[f"qpg:{{c{most}}}:streams"] == most


async def test_an_address_has_twenty_and_a_session_five_over_all_processes(valkey: ValkeyServer) -> None:
    async with process(valkey) as one, process(valkey) as other:
        for n in range(20):
            await (one, other)[n % 2].take(subject="192.0.2.1")
        assert not await one.fits(subject="192.0.2.1")
        assert await one.fits(subject="2001:db8::/64")
        assert await one.fits(client="market", subject="192.0.2.1")
        for n in range(5):
            await (one, other)[n % 2].take(session="cs_1", subject=f"192.0.2.{n + 2}")
        before = places(valkey)
        assert not await other.fits(session="cs_1", subject="192.0.2.9")
        assert places(valkey) == before, "what is refused takes no place at all"


async def test_an_internal_service_is_not_counted_by_address(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        for _ in range(25):
            await one.take(subject=None)
        assert not [key for key in places(valkey) if ":ip:" in key]


async def test_a_lower_most_counts_from_the_next_stream(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        held = [await one.take(most=5) for _ in range(5)]
        for slot in held[:2]:
            await slot.release()
        assert not await one.fits(most=3)
        await held[2].release()
        assert await one.fits(most=3)


async def test_keys_are_as_documented_and_in_one_slot_of_a_cluster(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        await one.take(client="shop", subject="192.0.2.1", session="cs_1")
        keys = places(valkey).keys()
        assert keys == {
            "qpg:{shop}:streams",
            "qpg:{shop}:streams:ip:192.0.2.1",
            "qpg:{shop}:streams:session:cs_1",
        }
        assert len({key_slot(key.encode()) for key in keys}) == 1


async def test_a_released_place_is_released_once(valkey: ValkeyServer) -> None:
    async with process(valkey) as one, process(valkey) as other:
        slot, kept = await one.take(session="cs_1"), await other.take(session="cs_1")
        for _ in range(3):
            await slot.release()
        await asyncio.gather(slot.release(), slot.release())
        assert (one.open, other.open) == (0, 1)
        assert places(valkey) == {"qpg:{shop}:streams": 1, "qpg:{shop}:streams:session:cs_1": 1}
        await kept.release()
        assert places(valkey) == {}


async def test_a_process_that_closes_frees_what_it_holds(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        await one.take()
        late, tasks = await one.take(), asyncio.all_tasks()
        await one.slots.close()
        assert places(valkey) == {}
        assert len(tasks - asyncio.all_tasks()) == 1, "it renews no more"
        await late.release()
        assert one.open == 1


async def test_the_places_of_a_killed_process_are_free_after_45_seconds(
    valkey: ValkeyServer, redis_time: Callable[[float], None]
) -> None:
    async with process(valkey) as killed, process(valkey) as other:
        for _ in range(3):
            await killed.take(most=4)
        redis_time(10)
        await other.take(most=4)
        redis_time(44)
        assert not await other.fits(most=4)
        redis_time(45)
        assert [await other.fits(most=4) for _ in range(4)] == [True, True, True, False]


async def test_who_renews_keeps_its_places(valkey: ValkeyServer, redis_time: Callable[[float], None]) -> None:
    async with process(valkey) as one, process(valkey) as other:
        gone = await one.take(most=3, subject="192.0.2.1")
        await one.take(most=3, subject="192.0.2.1", session="cs_1")
        for seconds in range(15, 300, 15):
            redis_time(seconds)
            await one.renew()
        await gone.release()
        assert set(one.clock.asked) == {RENEWAL}
        assert [await other.fits(most=3) for _ in range(3)] == [True, True, False]
        redis_time(300 + 20)
        # Here one's has been renewed last at 285, and other's has been taken then.
        assert not await other.fits(most=3)
        with valkey.client() as client:
            for name in ("", ":session:cs_1", ":ip:192.0.2.1"):
                ends = [score for _, score in client.zrange(f"qpg:{{shop}}:streams{name}", 0, -1, withscores=True)]
                assert set(ends) == {(START + 285 + 45) * 1000}


async def test_a_clock_of_redis_that_was_set_back_locks_nobody_out(
    valkey: ValkeyServer, redis_time: Callable[[float], None]
) -> None:
    async with process(valkey) as killed, process(valkey) as other:
        redis_time(3600)
        for _ in range(3):
            await killed.take(most=3)
        redis_time(0)
        assert await other.fits(most=3)


async def test_places_that_redis_lost_are_there_again_after_the_renewal(valkey: ValkeyServer) -> None:
    async with process(valkey) as one, process(valkey) as other:
        await one.take(client="market")
        for _ in range(3):
            await one.take(most=3, session="cs_1", subject="192.0.2.1")
        before = places(valkey)
        valkey.flush()
        assert places(valkey) == {}
        await one.renew()
        assert places(valkey) == before
        assert not await other.fits(most=3)


async def test_a_renewal_takes_one_command_for_hundreds_of_places(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        held = [await one.take() for _ in range(MOST_AT_ONCE + 50)]
        await one.take(client="market")
        valkey.flush()
        one.store.asked = 0
        await one.renew()
        assert one.store.asked == 3
        assert places(valkey)["qpg:{shop}:streams"] == len(held)


async def test_places_that_are_freed_at_once_go_in_a_few_commands(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        held = [await one.take() for _ in range(2 * MOST_AT_ONCE)]
        one.store.asked = 0
        await asyncio.gather(*(slot.release() for slot in held))
        assert one.store.asked <= 3
        assert places(valkey) == {}
        assert one.open == 0


async def test_who_leaves_during_a_renewal_does_not_come_back_by_it(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        slot, stays = await one.take(), await one.take()
        one.store.held = held = asyncio.Event()
        one.store.asked = 0
        renewing = asyncio.create_task(one.renew())
        while not one.store.asked:
            await asyncio.sleep(0.001)
        one.store.held = None
        await slot.release()
        assert places(valkey)["qpg:{shop}:streams"] == 1
        held.set()
        await renewing
        assert set(places(valkey).values()) == {1}
        await stays.release()
        assert places(valkey) == {}


async def test_a_release_that_is_cancelled_is_made_up_for_by_the_next(valkey: ValkeyServer) -> None:
    async with process(valkey) as one:
        slots = [await one.take() for _ in range(3)]
        one.store.held = held = asyncio.Event()
        first, second = (asyncio.create_task(slot.release()) for slot in slots[:2])
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        held.set()
        await first
        await slots[2].release()
        assert places(valkey) == {}
        assert one.open == 0


async def test_without_redis_a_process_has_its_share_of_each_limit(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with process(server, processes=3, deadline=DEADLINE) as one:
        await one.take(most=10, subject="192.0.2.1")
        server.pause()
        assert [await one.fits(most=10) for _ in range(3)] == [True, True, False]  # ⌊10 ÷ 3⌋, one of them from before
        assert [await one.fits(client="a", most=2) for _ in range(2)] == [True, False]  # at least one
        assert [await one.fits(client="b", session="cs_1") for _ in range(2)] == [True, False]
        took = [await one.fits(client="c", subject="192.0.2.1") for _ in range(7)]
        assert took == [True] * 6 + [False]
        assert one.open == 11
        server.resume()


async def test_without_redis_places_are_freed_here_and_told_when_it_is_back(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with process(server, deadline=DEADLINE) as one, process(server, deadline=DEADLINE) as other:
        first = await one.take(most=2)
        server.kill()
        second = await one.take(most=2)
        assert not await one.fits(most=2)
        await first.release()
        third = await one.take(most=2)
        assert one.open == 2
        await one.renew()
        await one.renew()
        assert one.clock.asked == [RENEWAL, RENEWAL_AGAIN, RENEWAL_AGAIN]
        server.restart()
        async with asyncio.timeout(10):
            while not (one.store.up and other.store.up):
                await asyncio.sleep(0.01)
        await one.renew()
        assert one.clock.asked[-1] == RENEWAL
        assert places(server)["qpg:{shop}:streams"] == 2
        assert not await other.fits(most=2)
        for slot in (second, third):
            await slot.release()
        assert places(server) == {}
        server.kill()


async def test_nobody_waits_long_for_a_frozen_redis(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()

    async def take_and_release() -> float:
        async with process(server, deadline=DEADLINE) as one:
            server.pause()
            started = asyncio.get_running_loop().time()
            await (await one.take()).release()
            took = asyncio.get_running_loop().time() - started
            server.resume()
        return took

    assert await quickest(take_and_release, under=0.2) < 0.2


async def test_nothing_is_left_of_thousands_of_streams(valkey: ValkeyServer) -> None:
    async with process(valkey) as one, process(valkey) as other:

        async def come_and_go(process: Process, worker: int) -> None:
            for n in range(50):
                slot = await process.take(subject=f"192.0.2.{worker}", session=f"cs_{worker}_{n}")
                await slot.release()

        await asyncio.gather(*(come_and_go((one, other)[n % 2], n) for n in range(40)))
        for each in (one, other):
            await each.renew()
            assert (each.open, each.slots._open, each.slots._counts, each.slots._leaving) == (0, {}, {}, [])
        # On a machine so busy that Redis misses its time a place or two may be left there, to free itself.
        assert sum(places(valkey).values()) <= 600, "of 6,000"


def test_scripts_use_only_commands_that_the_gateway_may() -> None:
    texts = [Script.load("gateway.access", "streams.lua").text, streams._RENEW.text, streams._FREE.text]
    used = {name for text in texts for name in re.findall(r'redis\.call\("([A-Z]+)"', text)}
    assert used == {"TIME", "ZADD", "ZREM", "ZCARD", "ZREMRANGEBYSCORE", "PEXPIRE"}
