"""The log of changes, on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.payments.changes import KEPT_FOR, KEY, MOST_KEPT, Changes, ChangeSet
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.redis_servers import unwatched
from tests.plugins.valkey import ValkeyServer


def patient(url: str) -> Store:
    """A store for tests that are not about deadlines: a busy machine is no outage."""
    return Store(Redis.from_url(url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)


@pytest.fixture
async def changes(valkey: ValkeyServer) -> AsyncIterator[Changes]:
    store = patient(valkey.url)
    yield Changes(store)
    await store.close()


async def test_what_was_announced_is_read_once_by_each_reader(changes: Changes) -> None:
    await changes.announce("cs_before")
    first = second = await changes.newest()
    assert (await changes.after(first)).session_ids == frozenset()

    await changes.announce("cs_1")
    await changes.announce("cs_2:odd")
    await changes.announce("cs_1")
    news = await changes.after(first)
    assert (news.session_ids, news.complete) == ({"cs_1", "cs_2:odd"}, True)
    assert await changes.after(second) == news
    assert await changes.after(news.cursor) == ChangeSet(news.cursor, frozenset(), complete=True)


async def test_changes_of_one_moment_by_many_are_all_read(changes: Changes) -> None:
    await changes.announce("cs_before")
    cursor = await changes.newest()
    await asyncio.gather(*(changes.announce(f"cs_{n}") for n in range(100)))
    news = await changes.after(cursor)
    assert news.complete
    assert news.session_ids == {f"cs_{n}" for n in range(100)}


async def test_while_nothing_was_ever_announced_nothing_is_missed(changes: Changes) -> None:
    cursor = await changes.newest()
    assert await changes.after(cursor) == ChangeSet(cursor, frozenset(), complete=True)


async def test_the_first_change_in_an_empty_log_is_not_missed(changes: Changes) -> None:
    cursor = await changes.newest()
    await changes.announce("cs_1")
    news = await changes.after(cursor)
    # Others may have been announced before it, and lost: the reader looks at everything, once.
    assert not news.complete
    assert await changes.after(news.cursor) == ChangeSet(news.cursor, frozenset(), complete=True)


async def test_who_falls_too_far_behind_is_told_to_look_at_everything(changes: Changes, valkey: ValkeyServer) -> None:
    await changes.announce("cs_before")
    cursor = await changes.newest()
    for batch in range(MOST_KEPT // 100):
        await asyncio.gather(*(changes.announce(f"cs_{batch}_{n}") for n in range(100)))
    assert not (await changes.after(cursor)).complete
    assert (await changes.after(await changes.newest())).complete
    with valkey.client() as client:
        assert client.zcard(KEY) == MOST_KEPT


async def test_a_reader_notices_that_the_log_was_lost(changes: Changes, valkey: ValkeyServer) -> None:
    await changes.announce("cs_1")
    cursor = await changes.newest()
    valkey.flush()
    news = await changes.after(cursor)
    assert not news.complete
    assert (await changes.after(news.cursor)).complete, "everything is looked at once, not at each tick"
    await changes.announce("cs_2")
    news = await changes.after(news.cursor)
    assert not news.complete
    assert (await changes.after(news.cursor)).complete


async def test_a_reader_notices_a_log_that_was_lost_and_begun_anew(changes: Changes, valkey: ValkeyServer) -> None:
    await changes.announce("cs_1")
    cursor = await changes.newest()
    valkey.flush()
    await changes.announce("cs_2")
    news = await changes.after(cursor)
    assert not news.complete
    assert news.cursor > cursor
    assert (await changes.after(news.cursor)).complete


@pytest.mark.parametrize("ahead", [-3600, 3600])
async def test_numbers_grow_and_readers_find_back_when_the_servers_clock_is_set(
    changes: Changes, valkey: ValkeyServer, ahead: int
) -> None:
    with valkey.client() as client:
        seconds, _ = client.time()
        then = (seconds + ahead) * 1_000_000
        client.zadd(KEY, {f"{then}:cs_then": then})
        cursor = await changes.newest()
        assert cursor == then
        await changes.announce("cs_1")
        news = await changes.after(cursor)
        assert (news.session_ids, news.complete) == ({"cs_1"}, True)
        assert news.cursor > cursor

        client.delete(KEY)
        await changes.announce("cs_2")
        assert not (await changes.after(news.cursor)).complete


async def test_the_log_ends_an_hour_after_the_last_change(changes: Changes, valkey: ValkeyServer) -> None:
    await changes.announce("cs_1")
    with valkey.client() as client:
        assert (KEPT_FOR - 60) * 1000 < client.pttl(KEY) <= KEPT_FOR * 1000


async def test_without_redis_nothing_is_announced_or_raised_and_readers_are_told(valkey_factory) -> None:
    server = valkey_factory()
    server.kill()
    async with unwatched(server.url) as store:
        changes = Changes(store)
        await changes.announce("cs_1")
        for read in (changes.newest(), changes.after(7)):
            with pytest.raises(StorageUnavailable):
                await read
