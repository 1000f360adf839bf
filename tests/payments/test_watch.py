"""Who watches a session learns of every change, whichever process made it, and leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.payments.agenda import Agenda
from gateway.payments.changes import KEY, Changes, ChangeSet
from gateway.payments.session import Session, SessionStatus, settle
from gateway.payments.sessions import Sessions
from gateway.payments.watch import MOST_READS, REREAD, TICK, Watches
from gateway.quantapay.models import Transaction
from gateway.store.client import connect
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics

PATIENCE = 5.0
"""Seconds; what is under test takes a fraction of one."""
REQUEST: ContextVar[str] = ContextVar("request", default="none")


def session(number: int = 1, *, version: int = 1) -> Session:
    return Session(
        id=f"cs_{number}",
        client_id="shop",
        price="49.99",
        currency="usd",
        order_id=f"ORD-{number}",
        payment_url="https://pay.example/1",
        created_at=datetime(2026, 4, 10, 9, 0, tzinfo=UTC),
        version=version,
    )


class HeldClock(SystemClock):
    """A clock that stands still, and whose sleepers wake when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[float] = []
        self._wake = asyncio.Event()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._wake.wait()

    def wake(self, later: float = TICK) -> None:
        self.now += later
        self._wake.set()
        self._wake = asyncio.Event()


class Memory:
    """Sessions, and the log of their changes, as the real ones behave; can be away, and can have a bug."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.log: list[str] = []
        self.kept_from = 0
        self.reads: list[str] = []
        self.looks = 0
        self.at_once = self.most_at_once = 0
        self.away = False
        self.bugs: set[str] = set()
        self.before: dict[str, Callable[[], None]] = {}
        """What happens right before an answer is made, or after it was made and before it arrives; once."""
        self.seen_in: set[str] = set()

    def put(self, *sessions: Session) -> None:
        self.sessions.update({session.id: session for session in sessions})

    def change(self, number: int = 1, *, announced: bool = True) -> Session:
        changed = replace(self.sessions[f"cs_{number}"], version=self.sessions[f"cs_{number}"].version + 1)
        self.put(changed)
        if announced:
            self.log.append(changed.id)
        return changed

    async def get(self, session_id: str) -> Session | None:
        self.reads.append(session_id)
        self.seen_in.add(REQUEST.get())
        self._happen("read")
        self._fail(session_id)
        found = self.sessions.get(session_id)
        self._happen("arrival")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return found

    async def newest(self) -> int:
        self._happen("cursor")
        self._fail("log")
        newest = len(self.log)
        self._happen("cursor taken")
        return newest

    async def after(self, cursor: int) -> ChangeSet:
        self.looks += 1
        self._fail("log")
        return ChangeSet(len(self.log), frozenset(self.log[cursor:]), complete=cursor >= self.kept_from)

    def _happen(self, moment: str) -> None:
        self.before.pop(moment, lambda: None)()

    def _fail(self, what: str) -> None:
        if self.away:
            raise StorageUnavailable
        if what in self.bugs:
            raise ValueError("a text with secrets")


class Bench:
    """Watches over a memory, with a clock that is held."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.clock = HeldClock()
        self.watches = Watches(self.memory, self.memory, clock=self.clock)  # type: ignore[arg-type]

    async def idle(self) -> None:
        """Let all that can go on do so."""
        for _ in range(200):
            await asyncio.sleep(0)

    async def tick(self, later: float = TICK) -> None:
        """Have the next look at the log happen."""
        self.clock.wake(later)
        await self.idle()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.watches.close()


async def test_a_change_reaches_all_who_watch_and_costs_one_read(bench: Bench) -> None:
    bench.memory.put(session(1), session(2))
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(bench.watches.open(session(1))) for _ in range(20)]
        other = await stack.enter_async_context(bench.watches.open(session(2)))
        await bench.idle()
        bench.memory.reads.clear()
        waiting = [asyncio.create_task(watch.changed(1)) for watch in watches]
        waiting_in_vain = asyncio.create_task(other.changed(1))

        changed = bench.memory.change(1)
        await bench.tick()
        assert await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE) == [changed] * 20
        assert bench.memory.reads == ["cs_1"]
        assert watches[0].session == changed
        assert not waiting_in_vain.done()
        waiting_in_vain.cancel()


async def test_a_change_that_is_known_already_is_not_waited_for(bench: Bench) -> None:
    async with bench.watches.open(session(version=3)) as watch:
        assert await watch.changed(2) == session(version=3)


async def test_a_tick_costs_one_command_however_many_watch(bench: Bench) -> None:
    bench.memory.put(*map(session, range(1000)))
    before = len(asyncio.all_tasks())
    async with AsyncExitStack() as stack:
        for number in range(1000):
            await stack.enter_async_context(bench.watches.open(session(number)))
        assert len(asyncio.all_tasks()) == before + 1
        await bench.tick()
        bench.memory.reads.clear()
        bench.memory.looks = 0
        for _ in range(5):
            await bench.tick()
        assert (bench.memory.looks, bench.memory.reads) == (5, [])
        assert set(bench.clock.asked) == {TICK}
        assert bench.memory.most_at_once == MOST_READS


async def test_a_lost_announcement_is_made_up_for(bench: Bench) -> None:
    bench.memory.put(session())
    async with bench.watches.open(session()) as watch:
        await bench.idle()
        changed = bench.memory.change(announced=False)
        await bench.tick()
        assert watch.session.version == 1
        await bench.tick(REREAD)
        assert watch.session == changed
        bench.memory.reads.clear()
        await bench.tick()
        assert bench.memory.reads == []


async def test_when_the_log_lost_entries_every_watched_session_is_read(bench: Bench) -> None:
    bench.memory.put(session(1), session(2))
    async with bench.watches.open(session(1)) as one, bench.watches.open(session(2)) as two:
        await bench.idle()
        bench.memory.change(1, announced=False)
        bench.memory.change(2)
        bench.memory.kept_from = 1
        await bench.tick()
        assert (one.session.version, two.session.version) == (2, 2)


@pytest.mark.parametrize("moment", ["load", "cursor", "cursor taken", "read", "arrival"])
async def test_no_change_is_missed_whenever_it_happens_while_a_watch_opens(bench: Bench, moment: str) -> None:
    bench.memory.put(session())
    loaded = session()
    if moment == "load":
        bench.memory.change()
    else:
        bench.memory.before[moment] = bench.memory.change
    async with bench.watches.open(loaded) as watch:
        await bench.idle()
        await bench.tick()
        assert watch.session.version == 2
        assert bench.memory.before == {}, "the moment never came"


async def test_no_change_is_missed_by_one_who_opens_while_others_watch(bench: Bench) -> None:
    bench.memory.put(session(1), session(2))
    async with bench.watches.open(session(1)):
        await bench.idle()
        loaded = session(2)
        bench.memory.change(2)
        await bench.tick()  # read from the log while nobody here watches that session
        async with bench.watches.open(loaded) as watch:
            await bench.tick()
            assert watch.session.version == 2


async def test_while_redis_is_away_watches_stay_and_learn_all_afterwards(bench: Bench) -> None:
    bench.memory.put(session(1), session(2))
    async with bench.watches.open(session(1)) as one:
        await bench.idle()
        bench.memory.away = True
        bench.memory.change(1)
        await bench.tick()
        async with bench.watches.open(session(2)) as two:
            bench.memory.change(2, announced=False)
            await bench.tick(REREAD + TICK)
            assert (one.session.version, two.session.version) == (1, 1)
            bench.memory.away = False
            await bench.tick()
            assert (one.session.version, two.session.version) == (2, 2)


async def test_a_watch_can_open_while_redis_is_away(bench: Bench) -> None:
    bench.memory.put(session())
    bench.memory.away = True
    async with bench.watches.open(session()) as watch:
        await bench.tick()
        bench.memory.change()
        bench.memory.away = False
        await bench.tick()
        assert watch.session.version == 2


async def test_a_read_that_fails_is_done_again_at_the_next_tick(bench: Bench) -> None:
    bench.memory.put(*map(session, range(50)))
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(bench.watches.open(session(n))) for n in range(50)]
        await bench.idle()
        for number in range(50):
            bench.memory.change(number)

        def go_away() -> None:
            bench.memory.away = True

        bench.memory.before["read"] = go_away
        await bench.tick()
        assert {watch.session.version for watch in watches} == {1}
        bench.memory.away = False
        await bench.tick()
        assert {watch.session.version for watch in watches} == {2}


async def test_who_left_while_a_read_failed_is_not_read_for(bench: Bench) -> None:
    bench.memory.put(session(1), session(2))

    async def hold() -> None:
        async with bench.watches.open(session(2)) as watch:
            await watch.changed(1)

    async with bench.watches.open(session(1)):
        await bench.idle()
        leaving = asyncio.create_task(hold())
        await asyncio.sleep(0)

        def break_off() -> None:
            bench.memory.away = True
            leaving.cancel()

        bench.memory.before["read"] = break_off
        await bench.tick()
        assert leaving.cancelled()
        bench.memory.away = False
        bench.memory.reads.clear()
        await bench.tick()
        assert bench.memory.reads == []


async def test_sessions_that_nobody_watches_here_are_not_read(bench: Bench) -> None:
    bench.memory.put(session(1), session(2))
    async with bench.watches.open(session(1)):
        await bench.idle()
        bench.memory.reads.clear()
        bench.memory.change(2)
        await bench.tick()
        assert bench.memory.reads == []


async def test_a_session_that_is_gone_is_waited_for(bench: Bench) -> None:
    async with bench.watches.open(session()) as watch:
        await bench.idle()
        bench.memory.put(session(version=2))
        bench.memory.log.append("cs_1")
        await bench.tick()
        assert watch.session.version == 2


async def test_a_version_never_goes_back(bench: Bench) -> None:
    bench.memory.put(session())
    async with bench.watches.open(session(version=2)) as watch:
        await bench.idle()
        assert watch.session.version == 2
        async with bench.watches.open(session(version=1)) as same:
            assert same.session.version == 2


async def test_a_newer_session_that_somebody_loaded_wakes_the_others(bench: Bench) -> None:
    async with bench.watches.open(session()) as watch:
        waiting = asyncio.create_task(watch.changed(1))
        await bench.idle()
        async with bench.watches.open(session(version=2)):
            assert await asyncio.wait_for(waiting, PATIENCE) == session(version=2)


async def test_who_stops_waiting_does_not_disturb_the_others(bench: Bench) -> None:
    bench.memory.put(session())
    async with bench.watches.open(session()) as first, bench.watches.open(session()) as second:
        one, two = asyncio.create_task(first.changed(1)), asyncio.create_task(second.changed(1))
        await bench.idle()
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        changed = bench.memory.change()
        await bench.tick()
        assert await asyncio.wait_for(two, PATIENCE) == changed


async def test_a_session_is_watched_until_its_last_holder_leaves(bench: Bench) -> None:
    bench.memory.put(session())
    async with bench.watches.open(session()) as staying:
        async with bench.watches.open(session()):
            pass
        bench.memory.change()
        await bench.tick()
        assert staying.session.version == 2


async def test_one_unreadable_session_does_not_keep_others_from_their_news(bench: Bench) -> None:
    bench.memory.put(session(1), session(2))
    bench.memory.bugs = {"cs_1"}
    with capture_logs() as lines:
        async with bench.watches.open(session(1)), bench.watches.open(session(2)) as watch:
            bench.memory.change(2)
            await bench.tick()
            assert watch.session.version == 2
    assert {(line["event"], line["error"]) for line in lines} == {("watching failed", "ValueError")}
    assert "secrets" not in str(lines)


async def test_a_bug_is_told_once_and_does_not_end_watching(bench: Bench) -> None:
    bench.memory.put(session())
    with capture_logs() as lines:
        async with bench.watches.open(session()) as watch:
            await bench.idle()
            bench.memory.bugs = {"log"}
            for _ in range(3):
                await bench.tick()
            bench.memory.change()
            bench.memory.bugs = set()
            await bench.tick()
            assert watch.session.version == 2
    assert [line["error"] for line in lines] == ["ValueError"]
    assert "secrets" not in str(lines)


async def test_watching_does_not_run_in_the_context_of_the_first_request(bench: Bench) -> None:
    bench.memory.put(session())
    REQUEST.set("the first")
    async with bench.watches.open(session()):
        await bench.idle()
    assert bench.memory.seen_in == {"none"}


async def test_ten_thousand_watches_leave_nothing_behind(bench: Bench) -> None:
    bench.memory.put(*map(session, range(100)))
    before = asyncio.all_tasks()
    for number in range(10_000):
        async with bench.watches.open(session(number % 100)):
            if number % 100 == 0:
                await bench.tick()
    await bench.tick()
    assert asyncio.all_tasks() == before
    assert (bench.watches._watched, bench.watches._unread, bench.watches._keeper) == ({}, set(), None)
    bench.memory.looks = 0
    await bench.tick()
    assert bench.memory.looks == 0

    async with bench.watches.open(session()) as watch:  # and it can begin again
        bench.memory.change()
        await bench.tick()
        assert watch.session.version == 2


async def test_a_stream_that_broke_leaves_nothing_behind(bench: Bench) -> None:
    with pytest.raises(ConnectionResetError):
        async with bench.watches.open(session()):
            raise ConnectionResetError
    await bench.tick()
    assert (bench.watches._watched, bench.watches._keeper) == ({}, None)


async def test_closing_ends_the_reading_even_while_somebody_watches(bench: Bench) -> None:
    before = asyncio.all_tasks()
    async with bench.watches.open(session()):
        await bench.idle()
        await bench.watches.close()
        assert asyncio.all_tasks() == before
    await bench.watches.close()


@asynccontextmanager
async def process(url: str) -> AsyncIterator[tuple[Sessions, Watches]]:
    """What one process has of sessions, on a real Redis."""
    metrics, clock = Metrics(), SystemClock()
    store = Store(connect(url), clock=clock, metrics=metrics)
    await store.start()
    changes = Changes(store)
    sessions = Sessions(store, changes=changes, agenda=Agenda(store, clock=clock), metrics=metrics)
    watches = Watches(sessions, changes, clock=clock)
    yield sessions, watches
    await watches.close()
    await store.close()


def paid(before: Session) -> Session:
    """The session as a payment in full leaves it."""
    payment = Transaction(
        id="1",
        quantapay_reference=None,
        title=None,
        description=None,
        from_address=None,
        to_address=None,
        hash="0xcc",
        amount=Decimal("0.0125"),
        cryptocurrency="eth",
        fiat_amount=Decimal("49.99"),
        currency="usd",
        order_id=before.order_id,
        status="completed",
        raw_status="C",
        created_at=before.created_at,
    )
    return settle(before, payment, tolerance_percent=Decimal(0))


async def insisting(act: Callable[[], object]) -> None:
    """Try until the store, which may just have been away, does it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await act()  # type: ignore[misc]
            except StorageUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


@pytest.mark.parametrize("trouble", ["none", "frozen", "log lost", "restarted empty"])
async def test_a_change_by_another_process_is_seen_through_every_trouble(valkey_factory, trouble: str) -> None:
    server = valkey_factory()
    async with process(server.url) as (theirs, _), process(server.url) as (_, watches):
        made = session()
        await insisting(lambda: theirs.create(made))
        async with watches.open(made) as watch, asyncio.timeout(2 * PATIENCE):
            waiting = asyncio.create_task(watch.changed(made.version))
            await asyncio.sleep(2 * TICK)
            if trouble == "frozen":
                server.pause()
                await asyncio.sleep(2 * TICK)
                server.resume()
            elif trouble == "log lost":
                with server.client() as client:
                    client.delete(KEY)
            elif trouble == "restarted empty":
                server.kill()
                server.restart()
                await insisting(lambda: theirs.create(made))
            await insisting(lambda: theirs.move(made.id, paid))
            assert (await waiting).status is SessionStatus.PAID
