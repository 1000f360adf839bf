"""Sessions in Redis, on a real Valkey: kept, found, moved by several at once, and a server that freezes or dies."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial, reduce
from itertools import permutations

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.payments.agenda import Agenda
from gateway.payments.changes import Changes
from gateway.payments.codec import encode
from gateway.payments.session import Session, SessionStatus, settle
from gateway.payments.sessions import KEPT, MOST_WITH_REFERENCE, Sessions
from gateway.quantapay.models import Transaction
from gateway.store.client import connect
from gateway.store.redis import Store
from gateway.telemetry.metrics import SESSION_EVENTS, Metrics
from tests.plugins.redis_servers import until_back, unwatched
from tests.plugins.valkey import ValkeyServer

ValkeyFactory = Callable[[], ValkeyServer]

RECORD = "qpg:session:cs_1"
NOW = datetime.now(UTC).replace(microsecond=0)


def session(session_id: str = "cs_1", **fields) -> Session:
    defaults = {
        "id": session_id,
        "client_id": "shop",
        "price": "49.99",
        "currency": "usd",
        "order_id": "ORD-1",
        "payment_url": "https://cloud.quantapay.app/pay/1",
        "created_at": NOW,
    }
    return Session(**(defaults | fields))


def payment(status: str = "completed", payment_id: str = "41", amount: str = "49.99") -> Transaction:
    defaults = dict.fromkeys(Transaction.__slots__)
    fields = {"id": payment_id, "status": status, "fiat_amount": Decimal(amount), "currency": "usd", "created_at": NOW}
    return Transaction(**(defaults | fields))


def settled_by(row: Transaction) -> Callable[[Session], Session]:
    return lambda current: settle(current, row, tolerance_percent=Decimal(0))


PAY = settled_by(payment())


def annotate(current: Session, name: str) -> Session:
    """A change that is one for each name, and has room for any number."""
    return replace(current, metadata={**current.metadata, name: ""}, version=current.version + 1)


class Process:
    """What one process has: sessions on a store, what it announced and what it counted."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.metrics = Metrics()
        self.changes = Changes(store)
        self.sessions = Sessions(
            store, changes=self.changes, agenda=Agenda(store, clock=SystemClock()), metrics=self.metrics
        )

    async def announced(self) -> list[str]:
        """Return the ids in the log of changes, one for each change."""
        entries = await self.store.run(lambda redis: redis.zrange("qpg:{sessions}:changes", 0, -1))
        return [entry.decode().partition(":")[2] for entry in entries]

    def counted(self) -> dict[str, int]:
        values = {
            event: self.metrics.registry.get_sample_value("gateway_checkout_sessions_total", {"event": event})
            for event in SESSION_EVENTS
        }
        return {event: int(value) for event, value in values.items() if value}


@asynccontextmanager
async def patient(url: str) -> AsyncIterator[Process]:
    """A process for tests that are not about deadlines: a busy machine is no outage."""
    store = Store(Redis.from_url(url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)
    try:
        yield Process(store)
    finally:
        await store.close()


@pytest.fixture
async def process(valkey: ValkeyServer) -> AsyncIterator[Process]:
    async with patient(valkey.url) as process:
        yield process


@pytest.fixture
async def neighbour(valkey: ValkeyServer) -> AsyncIterator[Process]:
    """A second process on the same Valkey."""
    async with patient(valkey.url) as process:
        yield process


# Kept and found.


async def test_a_session_is_found_as_it_was_made_by_every_process(process: Process, neighbour: Process) -> None:
    made = session(metadata={"n\u00e4me": "\u20ac \U0001d11e \n"}, transaction=payment(amount="49.990000000000000001"))
    await process.sessions.create(made)
    assert await process.sessions.get("cs_1") == await neighbour.sessions.get("cs_1") == made
    assert await process.sessions.get("cs_2") is None
    assert await process.announced() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(texts=st.dictionaries(st.text(st.characters()), st.text(st.characters()), max_size=3))
def test_metadata_can_be_any_unicode(valkey: ValkeyServer, texts: dict[str, str]) -> None:
    async def compare() -> None:
        async with patient(valkey.url) as process:
            await process.sessions.create(session(metadata=texts))
            found = await process.sessions.move("cs_1", PAY)
            assert found == await process.sessions.get("cs_1") == PAY(session(metadata=texts))

    asyncio.run(compare())


async def test_a_session_is_kept_for_thirty_days_from_when_it_was_made(process: Process, valkey: ValkeyServer) -> None:
    await process.sessions.create(session())
    with valkey.client() as client:
        assert KEPT - 5 < client.pttl(RECORD) / 1000 <= KEPT == 30 * 24 * 3600
        client.pexpire(RECORD, 60_000)
        await process.sessions.get("cs_1")
        await process.sessions.move("cs_1", PAY)
        await process.sessions.publish(session())
        assert 0 < client.pttl(RECORD) <= 60_000


async def test_a_session_is_found_by_its_reference_once_it_is_published(process: Process, valkey: ValkeyServer) -> None:
    await process.sessions.create(session())
    assert await process.sessions.with_reference("ORD-1") == []
    for _ in range(2):
        await process.sessions.publish(session())
    assert await process.sessions.with_reference("ORD-1") == [session()]
    with valkey.client() as client:
        [index] = client.keys("qpg:reference:*")
        assert re.fullmatch(rb"qpg:reference:[0-9a-f]{32}", index)
        assert KEPT - 5 < client.pttl(index) / 1000 <= KEPT
        assert client.zrange(index, 0, -1, withscores=True) == [(b"cs_1", NOW.timestamp())]
        assert client.zcard("qpg:{sessions}:open") == 1


async def test_references_are_compared_byte_for_byte(process: Process, valkey: ValkeyServer) -> None:
    alike = ["caf\u00e9", "cafe\u0301", "CAF\u00c9", "caf\u00e9 ", "\ud800", "\U0001d11e" * 255, ""]
    for number, order_id in enumerate(alike):
        made = session(f"cs_{number}", order_id=order_id)
        await process.sessions.create(made)
        await process.sessions.publish(made)
    for number, order_id in enumerate(alike):
        assert [found.id for found in await process.sessions.with_reference(order_id)] == [f"cs_{number}"]
    # Even if two references had the same digest.
    with valkey.client() as client:
        for index in client.keys("qpg:reference:*"):
            client.zadd(index, {"cs_3": 0})
    assert [found.id for found in await process.sessions.with_reference(alike[0])] == ["cs_0"]


async def test_of_many_sessions_with_a_reference_the_newest_are_found_newest_first(process: Process) -> None:
    made = [session(f"cs_{n}", created_at=NOW - timedelta(seconds=60 - n)) for n in range(MOST_WITH_REFERENCE + 3)]
    for one in [*made[3:], *made[:3], made[10]]:
        await process.sessions.create(one)
        await process.sessions.publish(one)
    assert await process.sessions.with_reference("ORD-1") == made[:2:-1]


async def test_what_is_in_the_index_but_not_there_is_passed_over(process: Process, valkey: ValkeyServer) -> None:
    await process.sessions.create(session())
    await process.sessions.publish(session())
    await process.sessions.publish(session("cs_2"))
    with valkey.client() as client:
        [index] = client.keys("qpg:reference:*")
        client.zadd(index, {b"\xff": 1, b"": 2, b"cs 3": 3})
    assert await process.sessions.with_reference("ORD-1") == [session()]


# Moved.


async def test_a_change_is_stored_announced_and_counted(process: Process, neighbour: Process) -> None:
    await process.sessions.create(session())
    moved = await process.sessions.move("cs_1", PAY)
    assert moved == PAY(session())
    assert await neighbour.sessions.get("cs_1") == moved
    assert await process.announced() == ["cs_1"]
    assert process.counted() == {"paid": 1}


async def test_a_change_that_changes_nothing_is_none(process: Process) -> None:
    await process.sessions.create(session())
    await process.sessions.move("cs_1", PAY)
    for change in (PAY, lambda current: current, replace):
        assert await process.sessions.move("cs_1", change) == PAY(session())
    assert await process.announced() == ["cs_1"]
    assert process.counted() == {"paid": 1}


async def test_a_change_without_another_status_is_announced_and_not_counted(process: Process) -> None:
    await process.sessions.create(session())
    moved = await process.sessions.move("cs_1", settled_by(payment("pending")))
    assert (moved.status, moved.version) == (SessionStatus.OPEN, 2)
    assert await process.announced() == ["cs_1"]
    assert process.counted() == {}


async def test_a_session_that_is_not_there_is_not_moved(process: Process, valkey: ValkeyServer) -> None:
    assert await process.sessions.move("cs_1", PAY) is None

    def ends_meanwhile(current: Session) -> Session:
        valkey.flush()
        return PAY(current)

    await process.sessions.create(session())
    assert await process.sessions.move("cs_1", ends_meanwhile) is None
    assert await process.sessions.get("cs_1") is None
    assert await process.announced() == []


async def test_what_a_change_raises_is_raised_and_nothing_is_changed(process: Process) -> None:
    await process.sessions.create(session())

    def fail(_current: Session) -> Session:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        await process.sessions.move("cs_1", fail)
    assert await process.sessions.get("cs_1") == session()
    assert await process.announced() == []


HISTORY = [payment("pending"), payment("underpaid"), payment(amount="1"), payment(), payment("refunded")]


async def test_however_processes_interleave_the_end_is_that_of_one_after_the_other(
    process: Process, neighbour: Process
) -> None:
    for number, rows in enumerate(permutations(HISTORY[:4])):
        name = f"cs_{number}"
        await process.sessions.create(session(name))
        moves = [
            one.sessions.move(name, settled_by(row)) for one, row in zip([process, neighbour] * 2, rows, strict=True)
        ]
        await asyncio.gather(*moves)
        reached = await process.sessions.get(name)
        assert (reached.status, reached.transaction) == (SessionStatus.PAID, payment())
        assert (await process.announced()).count(name) == reached.version - 1


async def test_no_change_is_lost_when_many_move_a_session_at_once(process: Process, neighbour: Process) -> None:
    await process.sessions.create(session())
    names = [f"note {n}" for n in range(12)]
    moves = [
        one.sessions.move("cs_1", partial(annotate, name=f"{name} of {who}"))
        for name in names[:6]
        for who, one in enumerate((process, neighbour))
    ]
    results = await asyncio.gather(*moves)
    reached = await process.sessions.get("cs_1")
    assert len(reached.metadata) == len(moves)
    assert reached.version == 1 + len(moves)
    assert sorted(result.version for result in results) == list(range(2, 2 + len(moves)))
    assert await process.announced() == ["cs_1"] * len(moves)


async def test_a_change_is_made_anew_from_what_another_process_left(process: Process, neighbour: Process) -> None:
    await process.sessions.create(session())
    seen: list[int] = []

    def slow(current: Session) -> Session:
        seen.append(current.version)
        return annotate(current, "slow")

    class Interrupted(Sessions):
        """Lets the neighbour move first, once, between look and swap."""

        async def _look(self, key, verb):
            found = await super()._look(key, verb)
            await neighbour.sessions.move("cs_1", PAY)
            return found

    interrupted = Interrupted(
        process.store,
        changes=process.changes,
        agenda=Agenda(process.store, clock=SystemClock()),
        metrics=process.metrics,
    )
    moved = await interrupted.move("cs_1", slow)
    assert seen == [1, 2]
    assert (moved.status, moved.metadata, moved.version) == (SessionStatus.PAID, {"slow": ""}, 3)
    assert process.counted() == {}
    assert neighbour.counted() == {"paid": 1}


async def test_who_is_never_quick_enough_gives_up(process: Process, valkey: ValkeyServer) -> None:
    await process.sessions.create(session())
    with valkey.client() as client:

        def always_late(current: Session) -> Session:
            client.set(RECORD, encode(replace(current, version=current.version + 1)), keepttl=True)
            return PAY(current)

        with pytest.raises(StorageUnavailable) as refused, structlog.testing.capture_logs() as lines:
            await process.sessions.move("cs_1", always_late)
    assert (refused.value.outcome, refused.value.retry_after) == (None, 1)
    assert [(line["log_level"], line["session_id"]) for line in lines] == [("warning", "cs_1")]
    assert (await process.sessions.get("cs_1")).status is SessionStatus.OPEN
    assert await process.announced() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(rows=st.lists(st.sampled_from(HISTORY), max_size=8))
def test_stored_or_not_a_session_moves_alike(valkey: ValkeyServer, rows: list[Transaction]) -> None:
    async def compare() -> None:
        async with patient(valkey.url) as process:
            await process.sessions.create(session())
            for row in rows:
                await process.sessions.move("cs_1", settled_by(row))
            reached = await process.sessions.get("cs_1")
            assert reached == reduce(lambda current, row: settled_by(row)(current), rows, session())
            assert len(await process.announced()) == reached.version - 1

    valkey.flush()
    asyncio.run(compare())


# Values that somebody else stored.


@pytest.mark.parametrize(
    "write",
    [
        lambda client, key: client.set(key, "secret"),
        lambda client, key: client.set(key, b"\xff\xfe"),
        lambda client, key: client.set(key, encode(session()).replace('"format":1', '"format":2')),
        lambda client, key: client.set(key, encode(session()).encode("utf-16")),
        lambda client, key: client.hset(key, "secret", "b"),
        lambda client, key: client.zadd(key, {"secret": 1}),
    ],
    ids=["text", "bytes", "newer version", "other encoding", "hash", "sorted set"],
)
async def test_a_record_that_is_not_ours_is_refused_and_stays(
    process: Process, valkey: ValkeyServer, write: Callable
) -> None:
    await process.sessions.create(session("cs_2"))
    for one in (session(), session("cs_2")):
        await process.sessions.publish(one)
    with valkey.client() as client:
        write(client, RECORD)
        before = client.dump(RECORD)
        with structlog.testing.capture_logs() as lines:
            for attempt in (
                process.sessions.get("cs_1"),
                process.sessions.move("cs_1", PAY),
            ):
                with pytest.raises(StorageUnavailable) as refused:
                    await attempt
                assert refused.value.retry_after == 1
            found = await process.sessions.with_reference("ORD-1")
            assert [other.id for other in found] == ["cs_2"], "it keeps no payment from the others"
        assert client.dump(RECORD) == before
    assert [(line["log_level"], line["key"]) for line in lines] == [("error", RECORD)] * 3
    assert "secret" not in str(lines)
    assert await process.announced() == []


async def test_an_index_that_is_not_ours_is_refused_and_stays(process: Process, valkey: ValkeyServer) -> None:
    await process.sessions.publish(session())
    with valkey.client() as client:
        [index] = client.keys("qpg:reference:*")
        client.set(index, "secret")
        with pytest.raises(StorageUnavailable) as refused:
            await process.sessions.with_reference("ORD-1")
        with pytest.raises(StorageUnavailable) as unknown:
            await process.sessions.publish(session())
        assert (refused.value.outcome, unknown.value.outcome) == (None, "unknown")
        assert client.get(index) == b"secret"


async def test_a_record_of_another_kind_is_not_replaced(process: Process, valkey: ValkeyServer) -> None:
    await process.sessions.create(session())
    with valkey.client() as client:

        def replaced_meanwhile(current: Session) -> Session:
            client.delete(RECORD)
            client.rpush(RECORD, "a")
            return PAY(current)

        with pytest.raises(StorageUnavailable):
            await process.sessions.move("cs_1", replaced_meanwhile)
        with pytest.raises(StorageUnavailable) as unknown:
            await process.sessions.create(session())
        assert unknown.value.outcome == "unknown"
        assert client.lrange(RECORD, 0, -1) == [b"a"]


# Redis freezes, dies, and comes back as another.


async def test_without_redis_everything_says_so(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with unwatched(server.url) as store:
        sessions = Process(store).sessions
        server.kill()
        for attempt, outcome in [
            (sessions.create(session()), "unknown"),
            (sessions.publish(session()), "unknown"),
            (sessions.get("cs_1"), None),
            (sessions.with_reference("ORD-1"), None),
            (sessions.move("cs_1", PAY), None),
        ]:
            with pytest.raises(StorageUnavailable) as refused:
                await attempt
            assert (refused.value.outcome, refused.value.retry_after) == (outcome, 1)
            assert refused.value.__cause__ is None


async def test_an_index_without_an_agenda_is_told_as_unknown(process: Process, valkey: ValkeyServer) -> None:
    class Nowhere(Agenda):
        async def add(self, _session: Session) -> None:
            raise StorageUnavailable(retry_after=1)

    sessions = Sessions(
        process.store,
        changes=process.changes,
        agenda=Nowhere(process.store, clock=SystemClock()),
        metrics=process.metrics,
    )
    await sessions.create(session())
    with pytest.raises(StorageUnavailable) as unknown:
        await sessions.publish(session())
    assert unknown.value.outcome == "unknown"
    assert await process.sessions.with_reference("ORD-1") == [session()]


async def test_a_change_that_a_frozen_redis_makes_late_is_one_change(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with patient(server.url) as outside, unwatched(server.url) as store:
        process = Process(store)
        await process.sessions.create(session())
        await process.sessions.move("cs_1", settled_by(payment("pending")))  # so that the server knows the script

        def frozen_meanwhile(current: Session) -> Session:
            server.pause()
            return PAY(current)

        with pytest.raises(StorageUnavailable):
            await process.sessions.move("cs_1", frozen_meanwhile)
        server.resume()
        await until_back(store)
        async with asyncio.timeout(15):
            while (await outside.sessions.get("cs_1")).status is not SessionStatus.PAID:
                await asyncio.sleep(0.01)
        reached = await outside.sessions.get("cs_1")
        assert reached.version == 3
        assert await outside.sessions.move("cs_1", PAY) == reached
        assert (outside.counted(), process.counted()) == ({}, {})


async def test_a_change_that_no_replica_has_yet_is_announced_all_the_same(
    process: Process, valkey: ValkeyServer
) -> None:
    class Unreplicated(Store):
        async def write(self, script, keys, args):
            await super().write(script, keys, args)
            raise StorageUnavailable(retry_after=1)

    redis = Redis.from_url(valkey.url, socket_timeout=20)
    store = Unreplicated(redis, clock=SystemClock(), metrics=Metrics(), deadline=20)
    await process.sessions.create(session())
    with pytest.raises(StorageUnavailable):
        await Process(store).sessions.move("cs_1", PAY)
    await store.close()
    assert await process.announced() == ["cs_1"]
    assert await process.sessions.get("cs_1") == PAY(session())


async def test_a_change_that_cannot_be_announced_is_made_all_the_same(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()

    class Deaf(Store):
        """A store whose server freezes after the write."""

        async def write(self, script, keys, args):
            reply = await super().write(script, keys, args)
            server.pause()
            return reply

    store = Deaf(connect(server.url), clock=SystemClock(), metrics=Metrics())
    async with patient(server.url) as outside:
        await outside.sessions.create(session())
        deaf = Process(store)
        assert await deaf.sessions.move("cs_1", PAY) == PAY(session())
        assert deaf.counted() == {"paid": 1}
        server.resume()
        await until_back(store)
        assert await outside.sessions.get("cs_1") == PAY(session())
    await store.close()


async def test_a_redis_that_forgot_everything_has_no_sessions(process: Process, valkey: ValkeyServer) -> None:
    await process.sessions.create(session())
    await process.sessions.publish(session())
    valkey.flush()
    assert await process.sessions.get("cs_1") is None
    assert await process.sessions.move("cs_1", PAY) is None
    assert await process.sessions.with_reference("ORD-1") == []
