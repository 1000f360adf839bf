"""Who looks at which open sessions when, on a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.payments.agenda import KEY, LEASE_KEY, Agenda, Turn
from gateway.payments.session import Session
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.redis_servers import unwatched
from tests.plugins.valkey import ValkeyServer

SECOND, HOUR = 1000, 3_600_000
SLACK = 5 * SECOND
"""How much a slow machine may take between two steps of a test."""


def patient(url: str) -> Store:
    """A store for tests that are not about deadlines: a busy machine is no outage."""
    return Store(Redis.from_url(url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)


@pytest.fixture
async def agenda(valkey: ValkeyServer) -> AsyncIterator[Agenda]:
    store = patient(valkey.url)
    yield Agenda(store, clock=SystemClock())
    await store.close()


def session(session_id: str = "cs_1", *, age: float = 0.0) -> Session:
    """A session made `age` seconds ago."""
    made = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=age)
    return Session(
        id=session_id,
        client_id="shop",
        price="49.99",
        currency="usd",
        order_id="ORD-1",
        payment_url="https://pay.example/1",
        created_at=made,
    )


def now() -> float:
    return time.time() * 1000


def due(valkey: ValkeyServer) -> dict[str, float]:
    """When each session on the agenda is due, in ms from now."""
    with valkey.client() as client:
        return {
            member.decode().partition(":")[2]: score - now()
            for member, score in client.zrange(KEY, 0, -1, withscores=True)
        }


def let_pass(valkey: ValkeyServer, seconds: float = 11) -> None:
    """Bring what is due nearer, and end the lease's pause, as if time passed."""
    with valkey.client() as client:
        for member, score in client.zrange(KEY, 0, -1, withscores=True):
            client.zadd(KEY, {member: score - seconds * SECOND})
        client.delete(LEASE_KEY)


async def test_a_new_session_is_due_after_ten_seconds(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session())
    assert 10 * SECOND - SLACK < due(valkey)["cs_1"] <= 10 * SECOND
    assert await agenda.take_due() is None
    let_pass(valkey)
    assert await agenda.take_due() is not None


async def test_adding_a_session_again_changes_nothing(agenda: Agenda, valkey: ValkeyServer) -> None:
    made = session()
    await agenda.add(made)
    let_pass(valkey, 60)
    await agenda.add(made)
    assert due(valkey)["cs_1"] < 0
    assert len(due(valkey)) == 1


async def test_a_session_over_two_days_old_is_not_added(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session(age=48 * 3600 + 1))
    assert due(valkey) == {}


async def test_a_turn_tells_of_the_oldest_session_due(agenda: Agenda, valkey: ValkeyServer) -> None:
    young, middle, old = session("cs_young"), session("cs_middle", age=900), session("cs_old", age=7200)
    await agenda.add(middle)
    await agenda.add(young)
    let_pass(valkey)
    await agenda.add(old)  # not due yet
    turn = await agenda.take_due()
    assert turn is not None
    assert turn.oldest == middle.created_at
    assert turn.started == pytest.approx(now(), abs=SLACK)


@pytest.mark.parametrize(
    ("age", "pause"),
    [(0, 10), (590, 10), (1200, 20), (6 * 3600, 360), (47 * 3600, 47 * 60), (47.75 * 3600, 15 * 60)],
    ids=["new", "ten minutes", "twenty minutes", "six hours", "nearly two days", "the last time is at two days"],
)
async def test_a_session_is_due_ever_less_often(agenda: Agenda, valkey: ValkeyServer, age: float, pause: float) -> None:
    await agenda.add(session(age=age))
    let_pass(valkey)
    turn = await agenda.take_due()
    assert turn is not None
    await agenda.advance(turn)
    assert due(valkey)["cs_1"] == pytest.approx(pause * SECOND, abs=SLACK)


async def test_a_session_leaves_after_two_days(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session(age=48 * 3600 - 2))
    await agenda.add(session("cs_young"))
    let_pass(valkey)
    turn = await agenda.take_due()
    assert turn is not None
    await agenda.advance(Turn(turn.token, turn.started + 3 * SECOND, turn.oldest))
    assert due(valkey).keys() == {"cs_young"}


async def test_only_what_was_due_when_the_turn_began_waits_anew(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session("cs_due"))
    let_pass(valkey)
    turn = await agenda.take_due()
    assert turn is not None
    with valkey.client() as client:
        client.zadd(KEY, {f"{int(time.time())}:cs_later": turn.started + 1})
    await agenda.advance(turn)
    assert due(valkey)["cs_due"] > 0
    assert due(valkey)["cs_later"] < 1


async def test_a_removed_session_is_due_no_more(agenda: Agenda, valkey: ValkeyServer) -> None:
    made = session()
    await agenda.add(made)
    let_pass(valkey)
    await agenda.remove(made)
    await agenda.remove(made)
    assert await agenda.take_due() is None


async def test_of_all_processes_one_gets_the_turn(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session())
    let_pass(valkey)
    turns = await asyncio.gather(*(agenda.take_due() for _ in range(20)))
    assert sum(turn is not None for turn in turns) == 1


async def test_the_next_turn_is_ten_seconds_after_this_one_began(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session())
    let_pass(valkey)
    turn = await agenda.take_due()
    assert turn is not None
    await agenda.release(turn)
    assert await agenda.take_due() is None  # still due, as nothing was advanced
    with valkey.client() as client:
        assert 10 * SECOND - SLACK < client.pttl(LEASE_KEY) <= 10 * SECOND
    await agenda.release(Turn(turn.token, turn.started - 10 * SECOND, turn.oldest))
    assert await agenda.take_due() is not None


async def test_the_turn_of_a_killed_process_ends_by_itself(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session())
    let_pass(valkey)
    assert await agenda.take_due() is not None
    with valkey.client() as client:
        assert 30 * SECOND - SLACK < client.pttl(LEASE_KEY) <= 30 * SECOND
        client.pexpire(LEASE_KEY, 1)
    await asyncio.sleep(0.01)
    assert await agenda.take_due() is not None


async def test_a_process_whose_turn_ended_does_not_end_anothers(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session())
    let_pass(valkey)
    late = await agenda.take_due()
    assert late is not None
    with valkey.client() as client:
        client.delete(LEASE_KEY)
        assert await agenda.take_due() is not None
        await agenda.release(Turn(late.token, late.started - HOUR, late.oldest))
        assert client.pttl(LEASE_KEY) > 20 * SECOND


async def test_a_look_while_nothing_is_due_writes_nothing(agenda: Agenda, valkey: ValkeyServer) -> None:
    assert await agenda.take_due() is None
    with valkey.client() as client:
        assert client.keys("*") == []


async def test_the_agenda_ends_after_its_last_session(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session())
    with valkey.client() as client:
        assert 48 * HOUR < client.pttl(KEY) <= 49 * HOUR


async def test_times_from_before_the_clock_was_set_back_are_no_obstacle(agenda: Agenda, valkey: ValkeyServer) -> None:
    made = session()
    await agenda.add(made)
    with valkey.client() as client:
        client.zadd(KEY, {f"{int(made.created_at.timestamp())}:cs_1": now() + 24 * HOUR})
        client.set(LEASE_KEY, "of then", px=24 * HOUR)
    turn = await agenda.take_due()
    assert turn is not None
    await agenda.advance(turn)
    assert due(valkey)["cs_1"] <= 10 * SECOND


async def test_of_very_many_sessions_ten_thousand_are_seen_to_at_once(agenda: Agenda, valkey: ValkeyServer) -> None:
    with valkey.client() as client:
        made = int(time.time())
        client.zadd(KEY, {f"{made}:cs_{n}": n + 1 for n in range(10_500)})
        turn = await agenda.take_due()
        assert turn is not None
        await agenda.advance(turn)
        assert client.zcount(KEY, "-inf", now()) == 500


async def test_hastened_sessions_are_due_now_however_many_and_leave_when_they_would_have(
    agenda: Agenda, valkey: ValkeyServer
) -> None:
    with valkey.client() as client:
        made = int(time.time())
        client.zadd(KEY, {f"{made}:cs_{n}": now() + HOUR + n for n in range(2_500)})
        client.zadd(KEY, {f"{made - 48 * 3600 + 60}:cs_old": now() + 60 * SECOND, f"{made}:cs_due": 1})
        client.pexpire(KEY, HOUR)
        await agenda.hasten()
        waiting = due(valkey)
        assert len(waiting) == 2_502
        assert max(waiting.values()) <= 0
        assert waiting["cs_due"] < -HOUR, "what was due stays first"
        assert client.pttl(KEY) <= HOUR
    turn = await agenda.take_due()
    assert turn is not None
    await agenda.advance(turn)
    assert due(valkey)["cs_old"] == pytest.approx(60 * SECOND, abs=SLACK)


async def test_hastening_leaves_the_pause_between_turns_as_it_is(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.add(session())
    let_pass(valkey)
    turn = await agenda.take_due()
    assert turn is not None
    await agenda.release(turn)
    await agenda.hasten()
    assert await agenda.take_due() is None


async def test_an_empty_agenda_is_hastened_at_no_cost(agenda: Agenda, valkey: ValkeyServer) -> None:
    await agenda.hasten()
    with valkey.client() as client:
        assert client.keys("*") == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ages=st.lists(st.floats(0, 49 * 3600), min_size=1, max_size=5))
async def test_whatever_is_due_is_later_due_again_or_gone(
    agenda: Agenda, valkey: ValkeyServer, ages: list[float]
) -> None:
    with valkey.client() as client:
        client.delete(KEY, LEASE_KEY)
        for n, age in enumerate(ages):
            client.zadd(KEY, {f"{int(time.time() - age)}:cs_{n}": now() - 1})
    turn = await agenda.take_due()
    assert turn is not None
    assert turn.oldest.timestamp() == pytest.approx(time.time() - max(ages), abs=5)
    await agenda.advance(turn)
    waiting = due(valkey)
    for n, age in enumerate(ages):
        if age > 48 * 3600 + 5:
            assert f"cs_{n}" not in waiting
        elif age < 48 * 3600 - 5:
            left = 48 * 3600 - age
            assert waiting[f"cs_{n}"] == pytest.approx(min(max(10, age / 60), left) * SECOND, abs=SLACK)


async def test_without_redis_every_part_says_so(valkey_factory) -> None:
    server = valkey_factory()
    server.kill()
    async with unwatched(server.url) as store:
        agenda = Agenda(store, clock=SystemClock())
        turn = Turn("token", 0, datetime.now(UTC))
        for step in (
            agenda.add(session()),
            agenda.remove(session()),
            agenda.take_due(),
            agenda.advance(turn),
            agenda.release(turn),
            agenda.hasten(),
        ):
            with pytest.raises(StorageUnavailable):
                await step
