"""Durable queues on a real Valkey, whose time stands still unless a test moves it."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.store import queue as queues
from gateway.store.embedded import EmbeddedValkey
from gateway.store.queue import Backlog, Known, Put, Queue, Taken, known, put
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.redis_servers import RedisServers, unwatched
from tests.plugins.valkey import ValkeyServer

NOW = "qpg:{events}:test:now"
"""Where a test keeps the server's time, in microseconds."""
LEASE = 30.0
DAYS = 24 * 3600.0
HISTORY = "qpg:{events}:payment:1"


def store_on(url: str) -> Store:
    return Store(Redis.from_url(url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)


@pytest.fixture
async def store(valkey: ValkeyServer) -> AsyncIterator[Store]:
    store = store_on(valkey.url)
    yield store
    await store.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the script read the time that `Time` keeps."""
    script = queues._SCRIPT.text
    text = script.replace('redis.call("TIME")', f'{{0, redis.call("GET", "{NOW}")}}')
    assert text != script
    monkeypatch.setattr(queues, "_SCRIPT", Script(text))


class Time:
    """The server's time, moved by hand."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.now = 1_775_000_000_000
        """In milliseconds."""

    async def advance(self, seconds: float = 0.0) -> None:
        self.now += round(seconds * 1000)
        await self._store.run(lambda redis: redis.set(NOW, self.now * 1000))


@pytest.fixture
async def time(held: None, store: Store) -> Time:
    time = Time(store)
    await time.advance()
    return time


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store, "shop", lease=LEASE)


async def fill(store: Store, queue: Queue, *ids: str, group: str = "") -> None:
    for message_id in ids:
        assert await put(store, [queue], message_id, f"text of {message_id}", group=group) is Put.PUT


async def ids(queue: Queue, most: int = 10) -> list[str]:
    return [taken.id for taken in await queue.take(most)]


async def one(queue: Queue) -> Taken:
    [taken] = await queue.take(10)
    return taken


async def test_what_is_put_is_taken_as_it_was_and_after_that_is_gone(store: Store, queue: Queue, time: Time) -> None:
    message = '{"é": "\\ud800 \x00 №"}'
    assert await put(store, [queue], "a", message) is Put.PUT
    await time.advance(1.5)
    taken = await one(queue)
    assert (taken.id, taken.message, taken.attempts, taken.age) == ("a", message, 0, 1.5)
    assert await ids(queue) == []
    await queue.finish(taken)
    await time.advance(10 * LEASE)
    assert await ids(queue) == []
    assert await queue.backlog() == Backlog(waiting=0, age=0.0, dead=0)
    await fill(store, queue, "a")


async def test_messages_are_taken_in_the_order_in_which_they_were_put_and_no_more_than_asked_for(
    store: Store, queue: Queue, time: Time
) -> None:
    for message_id in "cab":
        await fill(store, queue, message_id)
        await time.advance(0.001)
    assert await ids(queue, most=2) == ["c", "a"]
    assert await ids(queue, most=2) == ["b"]
    assert await ids(queue, most=2) == []


async def test_a_message_that_nobody_finishes_comes_back_when_its_lease_ends(
    store: Store, queue: Queue, time: Time
) -> None:
    await fill(store, queue, "a")
    first = await one(queue)
    await time.advance(LEASE - 0.001)
    assert await ids(queue) == []
    await time.advance(0.001)
    second = await one(queue)
    assert (second.id, second.message, second.attempts) == (first.id, first.message, 0)
    assert second.lease > first.lease


async def test_leases_end_on_the_servers_own_clock(store: Store) -> None:
    queue = Queue(store, "quick", lease=0.05)
    await fill(store, queue, "a")
    assert await ids(queue) == ["a"]
    async with asyncio.timeout(10):
        while not await ids(queue):
            await asyncio.sleep(0.01)


async def test_a_retry_is_due_after_its_delay_and_counts(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a")
    for attempt in range(5):
        taken = await one(queue)
        assert (taken.attempts, taken.error) == (attempt, f"HTTP 50{attempt}" if attempt else "")
        await queue.retry(taken, after=3600, error=f"HTTP 50{attempt + 1}")
        await time.advance(3599.999)
        assert await ids(queue) == []
        await time.advance(0.001)


async def test_who_lost_a_lease_can_neither_put_a_message_off_nor_bury_it(
    store: Store, queue: Queue, time: Time
) -> None:
    await fill(store, queue, "a")
    late = await one(queue)
    await time.advance(LEASE)
    owner = await one(queue)
    await queue.retry(late, after=0)
    await queue.bury(late, error="late")
    assert await ids(queue) == []
    assert await queue.backlog() == Backlog(waiting=1, age=LEASE, dead=0)
    await queue.retry(owner, after=1)
    await queue.retry(owner, after=0)
    await time.advance(1)
    assert (await one(queue)).attempts == 1


async def test_who_lost_a_lease_can_still_finish_what_is_done(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a")
    late = await one(queue)
    await time.advance(LEASE)
    owner = await one(queue)
    await queue.finish(late)
    await queue.retry(owner, after=0)
    await queue.bury(owner, error="too late")
    assert await queue.backlog() == Backlog(waiting=0, age=0.0, dead=0)
    assert await queue.dead() == []


async def bury(queue: Queue, error: str = "HTTP 410") -> None:
    await queue.bury(await one(queue), error=error)


async def test_a_buried_message_is_kept_with_its_error_and_taken_no_more(
    store: Store, queue: Queue, time: Time
) -> None:
    for message_id in "abc":
        await fill(store, queue, message_id)
        await bury(queue, error=f"sad: {message_id} №")
        await time.advance(1)
    assert await ids(queue) == []
    dead = await queue.dead()
    assert [letter.id for letter in dead] == ["c", "b", "a"]
    assert [letter.id for letter in await queue.dead(offset=1, most=1)] == ["b"]
    assert (dead[2].message, dead[2].attempts, dead[2].error) == ("text of a", 1, "sad: a №")
    assert dead[2].died_at == time.now / 1000 - 3
    assert await queue.backlog() == Backlog(waiting=0, age=0.0, dead=3)
    assert await put(store, [queue], "a", "again") is Put.PUT, "it is due again"
    assert (await queue.backlog()).dead == 2


async def test_a_revived_message_is_as_if_never_tried(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a")
    await queue.retry(await one(queue), after=0, error="HTTP 500")
    await bury(queue)
    await time.advance(100)
    assert await queue.revive("a")
    assert not await queue.revive("a")
    assert not await queue.revive("never put")
    assert await queue.backlog() == Backlog(waiting=1, age=0.0, dead=0)
    taken = await one(queue)
    assert (taken.id, taken.message, taken.attempts, taken.age) == ("a", "text of a", 0, 0.0)


async def test_only_a_dead_message_can_be_discarded(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a")
    assert not await queue.discard("a")
    await bury(queue)
    assert await queue.discard("a")
    assert not await queue.discard("a")
    assert not await queue.revive("a")
    assert await queue.dead() == []
    await fill(store, queue, "a")


async def test_the_dead_are_forgotten_after_90_days_though_the_queue_is_in_use(
    store: Store, queue: Queue, time: Time
) -> None:
    await fill(store, queue, "old")
    await bury(queue)
    await time.advance(89 * DAYS)
    await fill(store, queue, "newer")
    await bury(queue)
    assert len(await queue.dead()) == 2
    await time.advance(1 * DAYS)
    await fill(store, queue, "newest")
    await bury(queue)
    assert [letter.id for letter in await queue.dead()] == ["newest", "newer"]
    await fill(store, queue, "old")


async def test_of_a_group_the_next_waits_for_the_one_before(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "z", "y", "x", group="session")
    await fill(store, queue, "other")
    other, first = await queue.take(10)
    assert (other.id, first.id) == ("other", "z")
    for attempt in range(2):
        await time.advance(5)
        assert await ids(queue) == [], f"held up by attempt {attempt}"
        await queue.retry(first, after=10)
        await time.advance(10)
        [first] = [taken for taken in await queue.take(10) if taken.id != "other"]
        assert first.id == "z"
    await queue.finish(first)
    await time.advance(1)
    [second] = [taken for taken in await queue.take(10) if taken.id != "other"]
    assert second.id == "y"


async def test_a_message_holds_up_its_group_for_three_attempts(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a", "b", "c", group="session")
    for _ in range(3):
        taken = await one(queue)
        assert taken.id == "a"
        await queue.retry(taken, after=10)
        await time.advance(10)
    [first, second] = sorted(await queue.take(10), key=lambda taken: taken.id)
    assert (first.id, first.attempts, second.id, second.attempts) == ("a", 3, "b", 0)


async def test_a_buried_message_holds_up_nobody(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a", "b", group="session")
    await bury(queue)
    await time.advance(1)
    assert await ids(queue) == ["b"]


async def test_those_that_wait_for_another_do_not_keep_the_rest_of_the_queue_from_being_taken(
    store: Store, queue: Queue, time: Time
) -> None:
    await fill(store, queue, *(f"{number:03}" for number in range(120)), group="crowd")
    await fill(store, queue, "z")
    assert await ids(queue, most=1) == ["000"]
    assert await ids(queue, most=1) == ["z"]
    assert (await queue.backlog()).waiting == 121


async def test_the_next_of_a_group_is_due_as_soon_as_the_one_before_is_gone(
    store: Store, queue: Queue, time: Time
) -> None:
    await fill(store, queue, "a", "b", "c", group="session")
    for message_id in "abc":
        taken = await one(queue)
        assert taken.id == message_id
        await queue.finish(taken)


async def test_one_that_is_put_off_for_long_does_not_hold_up_its_group(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a", "b", group="session")
    await queue.retry(await one(queue), after=86_400)
    assert await ids(queue) == ["b"]
    await fill(store, queue, "c", group="other")
    await fill(store, queue, "d", group="session")
    assert await ids(queue) == ["c"], "d waits for b, which is in its first attempt"


async def test_putting_a_dead_message_again_revives_it(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a")
    await bury(queue)
    assert await put(store, [queue], "a", "another text") is Put.PUT
    taken = await one(queue)
    assert (taken.message, taken.attempts) == ("text of a", 0)


@pytest.mark.parametrize("end", ["finish", "discard", "revive and finish"])
async def test_a_group_leaves_nothing_behind(
    store: Store, queue: Queue, time: Time, valkey: ValkeyServer, end: str
) -> None:
    await fill(store, queue, "a", "b", group="session")
    for _ in "ab":
        if end == "finish":
            await queue.finish(await one(queue))
        else:
            await bury(queue)
        await time.advance(1)
    for message_id in "ab":
        if end == "discard":
            assert await queue.discard(message_id)
        if end == "revive and finish":
            assert await queue.revive(message_id)
            await queue.finish(await one(queue))
    with valkey.client() as redis:
        assert redis.keys("*") == [NOW.encode()]


async def test_a_full_queue_takes_no_more_until_there_is_room(store: Store, queue: Queue, time: Time) -> None:
    roomy = Queue(store, "roomy", lease=LEASE)
    await fill(store, queue, "a", "b")
    assert await put(store, [roomy, queue], "c", "text", most=2) is Put.FULL
    assert await roomy.take(1) == [], "in every queue, or in none"
    once = Known(history=HISTORY, subject="paid", digest="1")
    assert await put(store, [queue], "c", "text", most=2, once=once) is Put.FULL
    assert await known(store, HISTORY, "paid") is None
    assert await put(store, [queue], "c", "text", most=3) is Put.PUT
    [first, *_] = await queue.take(10)
    await queue.finish(first)
    assert await put(store, [queue], "d", "text", most=3) is Put.PUT


async def test_a_subject_is_told_once(store: Store, queue: Queue, time: Time) -> None:
    def told(digest: str, subject: str = "paid") -> Known:
        return Known(history=HISTORY, subject=subject, digest=digest)

    assert await known(store, HISTORY, "paid") is None
    assert await put(store, [queue], "a", "text", once=told("1")) is Put.PUT
    assert await known(store, HISTORY, "paid") == "1"
    await queue.finish(await one(queue))
    assert await put(store, [queue], "a", "text", once=told("1")) is Put.KNOWN
    assert await put(store, [queue], "b", "text", once=told("1")) is Put.KNOWN
    assert await put(store, [queue], "b", "text", once=told("2")) is Put.CONFLICT
    assert await put(store, [queue], "a", "text", once=told("3", "refunded")) is Put.KNOWN, "its id was put before"
    assert await queue.backlog() == Backlog(waiting=0, age=0.0, dead=0)
    assert await put(store, [queue], "b", "text", most=1, once=told("4", "underpaid")) is Put.PUT
    assert await put(store, [queue], "b", "text", most=1, once=told("4", "underpaid")) is Put.KNOWN, "though it is full"


async def test_a_message_goes_to_every_queue_and_in_each_has_a_life_of_its_own(store: Store, time: Time) -> None:
    first, second, third = (Queue(store, name, lease=LEASE) for name in ("first", "second", "third"))
    assert await put(store, [first, second], "a", "text") is Put.PUT
    await first.finish(await one(first))
    await bury(second)
    assert await third.take(1) == []
    assert await second.dead() != []
    assert await put(store, [first, third], "a", "text") is Put.PUT
    assert (await ids(first), await ids(second), await ids(third)) == (["a"], [], ["a"])


async def test_what_no_queue_takes_is_known_all_the_same(store: Store, time: Time) -> None:
    once = Known(history=HISTORY, subject="paid", digest="1")
    assert await put(store, [], "a", "text") is Put.PUT
    assert await put(store, [], "a", "text", once=once) is Put.PUT
    assert await put(store, [], "a", "text", once=once) is Put.KNOWN


async def test_the_backlog_is_as_old_as_its_oldest(store: Store, queue: Queue, time: Time) -> None:
    await fill(store, queue, "a")
    await time.advance(5)
    await fill(store, queue, "b")
    await queue.retry(await one_of(queue, "a"), after=3600)
    await time.advance(5)
    assert await queue.backlog() == Backlog(waiting=2, age=10.0, dead=0)


async def one_of(queue: Queue, message_id: str) -> Taken:
    return next(taken for taken in await queue.take(10) if taken.id == message_id)


async def test_every_key_ends_by_itself_and_lies_in_one_slot(
    store: Store, queue: Queue, time: Time, valkey: ValkeyServer
) -> None:
    once = Known(history=HISTORY, subject="paid", digest="1")
    assert await put(store, [queue], "a", "text", group="session", once=once) is Put.PUT
    await bury(queue)
    assert await put(store, [queue], "b", "text", group="session") is Put.PUT
    with valkey.client() as redis:
        keys = set(redis.keys("*")) - {NOW.encode()}
        assert keys == {key.encode() for key in [*queue.keys, HISTORY]}
        for key in keys:
            assert b"{events}" in key
            assert 89 * DAYS < redis.ttl(key) <= 90 * DAYS


async def test_a_put_that_no_replica_has_is_refused_however_often_it_is_tried(redis_servers: RedisServers) -> None:
    """Else the second try, which finds that it is there, would be believed, and lost with the primary."""
    topology = redis_servers.replicated(replicas=1)
    [replica] = topology.replicas
    url = f"redis://{topology.primary.address}"
    once = Known(history=HISTORY, subject="paid", digest="1")
    async with unwatched(url) as store, unwatched(url) as other:
        queue, same = Queue(store, "shop", lease=LEASE), Queue(other, "shop", lease=LEASE)
        assert await put(store, [queue], "before", "text") is Put.PUT
        assert await put(other, [same], "before it", "text") is Put.PUT
        replica.pause()
        for there, its in ((store, queue), (other, same)):
            with pytest.raises(StorageUnavailable):
                await put(there, [its], "a", "text")
            with pytest.raises(StorageUnavailable):
                await put(there, [its], "b", "text", once=once)
        replica.resume()


async def test_a_server_that_was_killed_still_has_everything(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        store = store_on(server.url)
        queue = Queue(store, "shop", lease=LEASE)
        once = Known(history=HISTORY, subject="paid", digest="1")
        assert await put(store, [queue], "a", "text", group="session", once=once) is Put.PUT
        await bury(queue)
        await fill(store, queue, "b", group="session")
        await queue.retry(await one(queue), after=0, error="HTTP 500")
        await store.close()
        assert server._process is not None
        server._process.kill()
        server.stop()
        server.start()
        store = store_on(server.url)
        queue = Queue(store, "shop", lease=LEASE)
        assert [(dead.id, dead.error) for dead in await queue.dead()] == [("a", "HTTP 410")]
        taken = await one(queue)
        assert (taken.id, taken.attempts) == ("b", 1)
        assert await put(store, [queue], "a", "text", once=once) is Put.KNOWN
        await store.close()


class Taker:
    """Finishes most of what it takes; has some come back, and forgets some, as a process that is killed does."""

    def __init__(self, queue: Queue, finished: set[str], chance: random.Random) -> None:
        self._queue = queue
        self._finished = finished
        self._chance = chance
        self.forgotten = 0

    async def run(self, expected: set[str]) -> None:
        while self._finished < expected:
            taken = await self._queue.take(7)
            for message in taken:
                await self._see_to(message)
            if not taken:
                await asyncio.sleep(0.01)

    async def _see_to(self, message: Taken) -> None:
        match self._chance.randrange(8):
            case 0:
                self.forgotten += 1
            case 1:
                await self._queue.retry(message, after=0.01)
            case _:
                await self._queue.finish(message)
                self._finished.add(message.id)


async def test_many_takers_that_fail_at_random_lose_nothing(store: Store) -> None:
    queue = Queue(store, "busy", lease=0.05)
    finished: set[str] = set()
    takers = [Taker(queue, finished, random.Random(number)) for number in range(4)]
    expected = {f"m{number}" for number in range(200)}

    async def fill_in(names: list[str]) -> None:
        for name in names:
            assert await put(store, [queue], name, "text", group=name[-2:]) is Put.PUT

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for part in range(4):
            tasks.create_task(fill_in(sorted(expected)[part::4]))
        for taker in takers:
            tasks.create_task(taker.run(expected))
    assert finished == expected
    assert sum(taker.forgotten for taker in takers) > 10
    assert await queue.backlog() == Backlog(waiting=0, age=0.0, dead=0)


@dataclass
class Model:
    """A message as it should be."""

    put: int
    group: str
    after: str | None
    """The one that it waits for."""
    due: int
    since: int
    attempts: int = 0
    lease: int | None = None
    """Of who took it last."""
    overtaken: bool = False


names = st.sampled_from("abcdef")


class Histories(RuleBasedStateMachine):
    """Messages that are put, taken, finished, put off, buried, revived and discarded, by takers that may be late."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = self.runner.run(self.begin())
        self.queue = Queue(self.store, "shop", lease=LEASE)
        self.waiting: dict[str, Model] = {}
        self.dead: set[str] = set()
        self.groups: dict[str, str] = {}
        self.handed: list[Taken] = []
        self.count = 0

    async def begin(self) -> Store:
        store = store_on(self.url)
        await store.run(lambda redis: redis.flushall())
        self.time = Time(store)
        await self.time.advance()
        return store

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    @property
    def now(self) -> int:
        return self.time.now

    @rule(name=names, group=st.sampled_from(["", "g", "g", "h"]))
    def put(self, name: str, group: str) -> None:
        result = self.runner.run(put(self.store, [self.queue], name, f"text of {name}", group=group))
        if name in self.waiting:
            assert result is Put.THERE
            return
        assert result is Put.PUT
        if name in self.dead:
            self.live_again(name)
            return
        self.count += 1
        before = self.groups.get(group) if group else None
        if before not in self.waiting or self.waiting[before].overtaken:
            before = None
        self.waiting[name] = Model(self.count, group, before, due=self.now, since=self.now)
        if group:
            self.groups[group] = name

    def let_next_go(self, name: str) -> None:
        for model in self.waiting.values():
            if model.after == name:
                model.after, model.due = None, self.now

    @rule(most=st.integers(1, 7))
    def take(self, most: int) -> None:
        taken = self.runner.run(self.queue.take(most))
        free = {name for name, model in self.waiting.items() if model.after is None and model.due <= self.now}
        got = {message.id for message in taken}
        assert len(got) == len(taken) == min(most, len(free))
        assert got <= free
        for message in taken:
            model = self.waiting[message.id]
            assert (message.message, message.attempts) == (f"text of {message.id}", model.attempts)
            assert message.age * 1000 == pytest.approx(self.now - model.since)
            model.due = model.lease = message.lease
            assert message.lease == self.now + LEASE * 1000
            self.handed.append(message)

    @rule(
        data=st.data(),
        what=st.sampled_from(["finish", "retry", "retry", "bury"]),
        after=st.sampled_from([0, 5, 60, 61]),
    )
    def see_to(self, data: st.DataObject, what: str, after: int) -> None:
        if not self.handed:
            return
        taken = data.draw(st.sampled_from(self.handed))
        if data.draw(st.booleans()):
            self.handed.remove(taken)  # else it is seen to twice
        model = self.waiting.get(taken.id)
        ours = model is not None and model.lease == taken.lease
        if what == "finish":
            self.runner.run(self.queue.finish(taken))
            self.forget(taken.id)
        elif what == "retry":
            self.runner.run(self.queue.retry(taken, after=after, error="sad"))
            if ours:
                model.due, model.lease, model.attempts = self.now + after * 1000, None, model.attempts + 1
                if after > 60 or model.attempts >= 3:
                    model.overtaken = True
                    self.let_next_go(taken.id)
        else:
            self.runner.run(self.queue.bury(taken, error="sad"))
            if ours:
                self.dead.add(taken.id)
                del self.waiting[taken.id]
                self.let_next_go(taken.id)

    def forget(self, name: str) -> None:
        self.waiting.pop(name, None)
        self.dead.discard(name)
        self.let_next_go(name)
        self.groups = {group: newest for group, newest in self.groups.items() if newest != name}

    @rule(name=names)
    def revive(self, name: str) -> None:
        assert self.runner.run(self.queue.revive(name)) == (name in self.dead)
        if name in self.dead:
            self.live_again(name)

    def live_again(self, name: str) -> None:
        self.dead.remove(name)
        self.count += 1
        self.waiting[name] = Model(self.count, "", None, due=self.now, since=self.now)

    @rule(name=names)
    def discard(self, name: str) -> None:
        assert self.runner.run(self.queue.discard(name)) == (name in self.dead)
        if name in self.dead:
            self.forget(name)

    @rule(seconds=st.sampled_from([0.001, 1.0, 5.0, LEASE, 3600.0]))
    def wait(self, seconds: float) -> None:
        # A millisecond more, so that no lease ends on the very one on which another message is due.
        self.runner.run(self.time.advance(seconds + 0.001))

    @invariant()
    def all_is_counted(self) -> None:
        backlog = self.runner.run(self.queue.backlog())
        assert (backlog.waiting, backlog.dead) == (len(self.waiting), len(self.dead))
        oldest = min((model.since for model in self.waiting.values()), default=self.now)
        assert backlog.age * 1000 == pytest.approx(self.now - oldest)
        assert {dead.id for dead in self.runner.run(self.queue.dead())} == self.dead


def test_any_history_is_as_the_rules_say(held: None, valkey: ValkeyServer) -> None:
    class HereAndNow(Histories):
        url = valkey.url

    run_state_machine_as_test(
        HereAndNow,
        settings=settings(max_examples=20, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )
