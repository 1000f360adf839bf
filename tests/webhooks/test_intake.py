"""Payments leave the inbox once they are judged, whatever QuantaPay, Redis or a bug has to say to it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.quantapay.models import Transaction
from gateway.quantapay.urgency import Urgency
from gateway.store.queue import put
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.webhooks.confirmation import Accepted, Answer, Denied, Unknown, Unsupported
from gateway.webhooks.inbox import LEASE_OUTLIVES_DEADLINE, Inbox
from gateway.webhooks.intake import DENIED_FOR, HANDFUL, HELD_FOR, PAUSES, POSTPONED, Intake, Turn
from tests.plugins.payments import WEBHOOK_PAYMENT as PAYMENT
from tests.plugins.valkey import ValkeyServer

READ_BACK = replace(PAYMENT, hash="0xcc")
DOWN = Unknown("upstream-timeout", asked=True)
UNASKED = Unknown("upstream-budget-exhausted", asked=False)
MOST_PAUSES = 40


class Confirmed:
    """Answers of QuantaPay: by the payment's id, or else the one for all."""

    def __init__(self) -> None:
        self.answer: Answer | Exception = Accepted(READ_BACK, confirmed=True)
        self.is_asked = True
        self.by_id: dict[str, Answer | Exception] = {}
        self.urgencies: list[Urgency] = []
        self.hangs = False

    def asks(self, _payment: Transaction) -> bool:
        return self.is_asked

    async def check(self, payment: Transaction, *, urgency: Urgency) -> Answer:
        self.urgencies.append(urgency)
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.by_id.get(payment.id, self.answer)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Allowed:
    """Lets first calls be urgent and all others wait for the background, unless there is nothing left."""

    nothing_left = False

    async def urgency(self, _payment: Transaction, *, first: bool) -> Urgency | None:
        if self.nothing_left:
            return None
        return Urgency.URGENT if first else Urgency.BACKGROUND


class Settled:
    """What was to be settled."""

    def __init__(self) -> None:
        self.applied: list[tuple[Transaction, dict[str, bool]]] = []
        self.fails: Exception | None = None

    async def apply(self, payment: Transaction, **how: bool) -> None:
        if self.fails is not None:
            raise self.fails
        self.applied.append((payment, how))


class SteadyClock(SystemClock):
    """Draws the same number each time."""

    drawn = 0.5

    def random(self) -> float:
        return self.drawn


class Bench:
    """An intake over a real inbox, between an answering QuantaPay and a settlement that takes notes."""

    def __init__(self, url: str, *, patience: float = 20) -> None:
        self.clock = SteadyClock()
        self.store = Store(
            Redis.from_url(url, socket_timeout=patience), clock=self.clock, metrics=Metrics(), deadline=patience
        )
        self.inbox = Inbox(self.store, deadline=10, on_refused=lambda: None)
        self.confirmed, self.settled, self.allowed = Confirmed(), Settled(), Allowed()
        self.intake = Intake(self.inbox, self.confirmed, self.settled, self.allowed, clock=self.clock)  # type: ignore[arg-type]
        self._due, self._since, *_ = self.inbox.queue.keys

    async def pauses(self) -> list[float]:
        """Return in how many seconds each payment is due again, rounded to 5."""
        scores = await self.store.run(lambda redis: redis.zrange(self._due, 0, -1, withscores=True))
        seconds, microseconds = await self.store.run(lambda redis: redis.time())
        now = seconds + microseconds / 1e6
        return [5.0 * round((score / 1000 - now) / 5) for _, score in scores]

    async def make_due(self, *, aged: float = 0) -> None:
        """Let all pauses and leases be over, and everything have waited `aged` seconds longer."""

        async def change(redis: Any) -> None:
            for member in await redis.zrange(self._due, 0, -1):
                await redis.zadd(self._due, {member: 0})
                await redis.zincrby(self._since, -aged * 1000, member)

        await self.store.run(change)

    async def see_to_all(self) -> None:
        while await self.intake.see_to_some() is not Turn.NOTHING_DUE:
            pass

    async def waiting(self) -> int:
        return (await self.inbox.queue.backlog()).waiting


@pytest.fixture
async def bench(valkey: ValkeyServer) -> AsyncIterator[Bench]:
    bench = Bench(valkey.url)
    yield bench
    await bench.intake.close()
    await bench.store.close()


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("confirmed", [True, False])
async def test_what_quantapay_says_is_settled_and_leaves_the_inbox(bench: Bench, confirmed: bool) -> None:
    bench.confirmed.answer = Accepted(READ_BACK, confirmed=confirmed)
    await bench.inbox.put(PAYMENT)
    assert await bench.intake.see_to_some() is Turn.TAKEN
    assert await bench.intake.see_to_some() is Turn.NOTHING_DUE
    [(payment, how)] = bench.settled.applied
    assert payment.hash == "0xcc"
    assert how == {"confirmed": confirmed, "tell_unmatched": True}
    assert await bench.waiting() == 0


async def test_a_denied_payment_is_held_ten_minutes_and_then_told_of_as_doubted(bench: Bench) -> None:
    bench.confirmed.answer = Denied()
    await bench.inbox.put(PAYMENT)
    pauses: list[float] = []
    while not bench.settled.applied:
        assert await bench.intake.see_to_some() is Turn.TAKEN
        pauses += await bench.pauses()
        await bench.make_due()
        assert len(pauses) < MOST_PAUSES
    assert pauses[:6] == [*PAUSES, PAUSES[-1]]
    assert DENIED_FOR <= sum(pauses) < DENIED_FOR + PAUSES[-1]
    assert bench.settled.applied == [
        (PAYMENT, {"confirmed": False, "doubted": True, "tell_unmatched": True}),
    ]
    assert await bench.waiting() == 0


async def test_one_that_is_known_later_is_as_good_as_any(bench: Bench) -> None:
    await bench.inbox.put(PAYMENT)
    for answer in (Denied(), DOWN, Denied(), Accepted(READ_BACK, confirmed=True)):
        bench.confirmed.answer = answer
        await bench.see_to_all()
        await bench.make_due()
    assert bench.settled.applied == [(READ_BACK, {"confirmed": True, "tell_unmatched": True})]


async def test_an_outage_uses_up_none_of_the_ten_minutes(bench: Bench) -> None:
    await bench.inbox.put(PAYMENT)
    denials = 0
    while not bench.settled.applied:
        for bench.confirmed.answer in (Denied(), DOWN, UNASKED):
            await bench.see_to_all()
            await bench.make_due(aged=1000)
        denials += 1
        assert denials < MOST_PAUSES
    undisturbed = 1 + len(PAUSES) - 1 + (DENIED_FOR - sum(PAUSES[:-1])) / PAUSES[-1]
    assert denials == -(-undisturbed // 1)


async def test_while_quantapay_says_nothing_a_payment_is_held_two_days(bench: Bench) -> None:
    bench.confirmed.answer = DOWN
    await bench.inbox.put(PAYMENT)
    pauses: list[float] = []
    for _ in range(8):
        await bench.see_to_all()
        pauses += await bench.pauses()
        await bench.make_due()
    assert pauses == [*PAUSES, *[PAUSES[-1]] * 3]
    await bench.make_due(aged=HELD_FOR - 60)
    await bench.see_to_all()
    assert (await bench.waiting(), bench.settled.applied) == (1, [])
    await bench.make_due(aged=60)
    await bench.see_to_all()
    assert bench.settled.applied == [(PAYMENT, {"confirmed": False, "doubted": True, "tell_unmatched": True})]
    assert await bench.waiting() == 0


async def test_only_the_first_call_may_use_what_creates_need(bench: Bench) -> None:
    await bench.inbox.put(PAYMENT)
    for bench.confirmed.answer in (UNASKED, UNASKED, DOWN, UNASKED, Denied(), UNASKED, Denied()):
        await bench.see_to_all()
        await bench.make_due()
    # Of the first two calls our own limits let none out. Those that they keep back later do not count.
    assert bench.confirmed.urgencies == [Urgency.URGENT] * 3 + [Urgency.BACKGROUND] * 4


async def test_what_may_not_be_asked_for_now_waits_and_holds_up_no_other(bench: Bench) -> None:
    await bench.inbox.put(PAYMENT)
    await bench.inbox.put(replace(PAYMENT, id="43"))
    bench.allowed.nothing_left = True
    assert await bench.intake.see_to_some() is Turn.TAKEN, "the next handful need not wait"
    assert (bench.confirmed.urgencies, await bench.pauses()) == ([], [POSTPONED, POSTPONED])
    bench.allowed.nothing_left = False
    await bench.make_due()
    await bench.see_to_all()
    assert bench.confirmed.urgencies == [Urgency.URGENT] * 2, "the first call is still to come"
    assert await bench.waiting() == 0


async def test_where_nothing_is_asked_nothing_is_saved(bench: Bench) -> None:
    bench.allowed.nothing_left, bench.confirmed.is_asked = True, False
    await bench.inbox.put(PAYMENT)
    await bench.see_to_all()
    assert len(bench.settled.applied) == 1


async def test_a_payment_counts_without_confirmation_only_if_there_is_none_three_times_in_a_row(bench: Bench) -> None:
    await bench.inbox.put(PAYMENT)
    unsupported = Unsupported()
    for bench.confirmed.answer in (unsupported, unsupported, Denied(), unsupported, unsupported):
        await bench.see_to_all()
        await bench.make_due()
        assert bench.settled.applied == []
    bench.confirmed.answer = unsupported
    await bench.see_to_all()
    assert bench.settled.applied == [(PAYMENT, {"confirmed": False, "tell_unmatched": True})]
    assert await bench.waiting() == 0


async def test_a_bug_in_one_holds_up_no_other(bench: Bench) -> None:
    others = [replace(PAYMENT, id=str(number)) for number in range(2 * HANDFUL)]
    bench.confirmed.by_id["42"] = RuntimeError("secret")
    for payment in (PAYMENT, *others):
        await bench.inbox.put(payment)
    with capture_logs() as lines:
        await bench.see_to_all()
    assert len(bench.settled.applied) == len(others)
    assert await bench.pauses() == [PAUSES[0]]
    [line] = [line for line in lines if line["event"] == "payment not judged"]
    assert (line["error"], line["log_level"]) == ("RuntimeError", "error")
    assert any("intake.py" in frame for frame in line["frames"])
    assert "secret" not in repr(lines)
    bench.confirmed.by_id.clear()
    await bench.make_due()
    await bench.see_to_all()
    assert await bench.waiting() == 0


async def test_what_cannot_be_read_is_kept_for_two_days_and_then_given_up(bench: Bench) -> None:
    await put(bench.store, [bench.inbox.queue], "id", '{"format": 2, "of": "a later version"}')
    for aged in (HELD_FOR - 60, 60):
        assert await bench.waiting() == 1
        await bench.see_to_all()
        await bench.make_due(aged=aged)
    await bench.see_to_all()
    [dead] = await bench.inbox.queue.dead()
    assert (dead.id, dead.error, bench.settled.applied) == ("id", "ValueError", [])


async def test_what_was_not_settled_for_want_of_redis_is_due_when_its_lease_ends(bench: Bench) -> None:
    bench.settled.fails = StorageUnavailable()
    await bench.inbox.put(PAYMENT)
    with capture_logs() as lines:
        await bench.see_to_all()
    assert lines == []
    assert await bench.pauses() == [10 + LEASE_OUTLIVES_DEADLINE]
    bench.settled.fails = None
    await bench.make_due()
    await bench.see_to_all()
    assert len(bench.settled.applied) == 1


async def test_what_a_process_was_at_when_it_was_killed_another_sees_to(bench: Bench, valkey: ValkeyServer) -> None:
    bench.confirmed.hangs = True
    await bench.inbox.put(PAYMENT)
    await bench.intake.start()
    await eventually(lambda: bench.confirmed.urgencies)
    await bench.intake.close()
    other = Bench(valkey.url)
    await other.see_to_all()
    assert (other.settled.applied, await other.waiting()) == ([], 1)
    await other.make_due()
    await other.see_to_all()
    assert (len(other.settled.applied), await other.waiting()) == (1, 0)
    await other.store.close()


async def test_several_processes_see_to_each_payment_once(valkey: ValkeyServer) -> None:
    benches = [Bench(valkey.url) for _ in range(3)]
    for number in range(60):
        await benches[0].inbox.put(replace(PAYMENT, id=str(number)))
    for bench in benches:
        bench.confirmed.by_id = {str(n): Accepted(replace(PAYMENT, id=str(n)), confirmed=True) for n in range(60)}
    await asyncio.gather(*(bench.see_to_all() for bench in benches))
    ids = [payment.id for bench in benches for payment, _ in bench.settled.applied]
    assert sorted(ids, key=int) == [str(number) for number in range(60)]
    for bench in benches:
        await bench.store.close()


async def test_what_this_process_puts_in_wakes_it_at_once(bench: Bench) -> None:
    bench.clock.drawn = 1e6
    await bench.intake.start()
    await asyncio.sleep(0.05)
    await bench.inbox.put(PAYMENT)
    await eventually(lambda: bench.settled.applied)


async def test_what_another_process_puts_in_is_found_by_looking(bench: Bench, valkey: ValkeyServer) -> None:
    bench.clock.drawn = -0.45
    await bench.intake.start()
    other = Bench(valkey.url)
    await other.inbox.put(PAYMENT)
    await eventually(lambda: bench.settled.applied)
    await other.store.close()


@pytest.mark.parametrize("answer", [DOWN, UNASKED, RuntimeError()], ids=repr)
async def test_while_all_is_in_vain_it_takes_a_handful_at_a_time(bench: Bench, answer: Answer | Exception) -> None:
    bench.confirmed.answer = answer
    bench.clock.drawn = 1e6
    for number in range(2 * HANDFUL):
        await bench.inbox.put(replace(PAYMENT, id=str(number)))
    await bench.intake.start()
    await eventually(lambda: len(bench.confirmed.urgencies) == HANDFUL)
    await bench.inbox.put(PAYMENT)
    await asyncio.sleep(0.05)
    assert len(bench.confirmed.urgencies) == HANDFUL


async def test_what_is_in_vain_for_one_is_not_for_others(bench: Bench) -> None:
    bench.confirmed.by_id["0"] = DOWN
    bench.clock.drawn = 1e6
    for number in range(2 * HANDFUL):
        await bench.inbox.put(replace(PAYMENT, id=str(number)))
    await bench.intake.start()
    await eventually(lambda: len(bench.settled.applied) == 2 * HANDFUL - 1)


async def test_it_goes_on_after_redis_was_away(valkey_factory) -> None:
    server = valkey_factory()
    bench = Bench(server.url, patience=0.1)
    bench.clock.drawn = -0.45
    await bench.store.start()
    await bench.intake.start()
    server.kill()
    async with asyncio.timeout(20):
        while not bench.settled.applied:
            try:
                await bench.inbox.put(PAYMENT)
            except StorageUnavailable:
                if server._embedded.pid is None:
                    server.restart()
            await asyncio.sleep(0.05)
    await bench.intake.close()
    await bench.store.close()


async def test_a_bug_in_looking_does_not_end_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_most: int) -> None:
        raise RuntimeError("secret")

    with monkeypatch.context() as patched, capture_logs() as lines:
        patched.setattr(bench.inbox.queue, "take", fail)
        assert await bench.intake.see_to_some() is Turn.NOTHING_DUE
    assert [line["event"] for line in lines] == ["inbox not read"]
    assert "secret" not in repr(lines)
    await bench.inbox.put(PAYMENT)
    assert await bench.intake.see_to_some() is Turn.TAKEN
