"""What a payment changes, on a real Valkey: attacks, processes killed between any two steps, and several at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.payments.agenda import KEY, Agenda
from gateway.payments.changes import Changes
from gateway.payments.session import Session, SessionStatus
from gateway.payments.sessions import Sessions
from gateway.payments.settlement import Settlement
from gateway.quantapay.models import Transaction
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.valkey import ValkeyServer

NOW = datetime.now(UTC).replace(microsecond=0)
COMPLETED = ("payment.completed", None, "41")


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


def payment(payment_id: str = "41", status: str = "completed", amount: str = "49.99", **fields) -> Transaction:
    defaults = dict.fromkeys(Transaction.__slots__) | {
        "id": payment_id,
        "status": status,
        "fiat_amount": Decimal(amount),
        "currency": "usd",
        "order_id": "ORD-1",
        "created_at": NOW,
    }
    return Transaction(**(defaults | fields))


class HeldClock(SystemClock):
    def time(self) -> float:
        return NOW.timestamp() + 5.5


class Faulty:
    """A part of which one method fails once, before it did anything or after, as if the process ended there."""

    def __init__(self, part: object, method: str, *, after: bool) -> None:
        self._part = part
        self._method = method
        self._after = after
        self.failed = False

    def __getattr__(self, name: str) -> Callable:
        method = getattr(self._part, name)
        if name != self._method or self.failed:
            return method

        async def fail(*args: object) -> None:
            self.failed = True
            if self._after:
                await method(*args)
            raise StorageUnavailable(retry_after=1)

        return fail


class Shop:
    """What one process has, and both ways in which it learns of payments."""

    def __init__(self, store: Store, events) -> None:
        self.metrics = Metrics()
        self.agenda = Agenda(store, clock=SystemClock())
        self.sessions = Sessions(store, changes=Changes(store), agenda=self.agenda, metrics=self.metrics)
        self.events = events
        self.tolerance = Decimal(0)
        self.settlement = self.settling()

    def settling(self, **parts) -> Settlement:
        own = {"sessions": self.sessions, "agenda": self.agenda, "events": self.events}
        return Settlement(
            **(own | parts),
            tolerance=lambda: self.tolerance,
            clock=HeldClock(),
            metrics=self.metrics,
        )

    async def open(self, *made: Session) -> None:
        for one in made:
            await self.sessions.create(one)
            await self.sessions.publish(one)

    async def push(self, row: Transaction) -> None:
        """A webhook that QuantaPay confirmed."""
        await self.settlement.apply(row, confirmed=True, tell_unmatched=True)

    async def push_invented(self, row: Transaction) -> None:
        """A webhook that only somebody who knows the secret can have sent."""
        await self.settlement.apply(row, confirmed=False, doubted=True, tell_unmatched=True)

    async def list(self, row: Transaction) -> None:
        """A row that reconciliation found."""
        await self.settlement.apply(row, confirmed=True, tell_unmatched=False)

    async def status(self, session_id: str = "cs_1") -> str:
        return (await self.sessions.get(session_id)).status.value

    def counted(self, event: str) -> float:
        return self.metrics.registry.get_sample_value("gateway_checkout_sessions_total", {"event": event})


@pytest.fixture
async def shops(valkey: ValkeyServer, heard) -> AsyncIterator[list[Shop]]:
    """Three processes on one Valkey."""
    async with AsyncExitStack() as stack:
        stores = [
            Store(Redis.from_url(valkey.url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)
            for _ in range(3)
        ]
        for store in stores:
            stack.push_async_callback(store.close)
        yield [Shop(store, heard) for store in stores]


@pytest.fixture
def shop(shops: list[Shop]) -> Shop:
    return shops[0]


def awaited(valkey: ValkeyServer) -> set[str]:
    """Return the ids of the sessions on the agenda."""
    with valkey.client() as client:
        return {member.decode().partition(":")[2] for member in client.zrange(KEY, 0, -1)}


WAYS = [Shop.push, Shop.list]
by_each_way = pytest.mark.parametrize("learn", WAYS, ids=["webhook", "reconciliation"])


# What is told, and what becomes of the session.


@by_each_way
async def test_a_payment_is_told_with_its_session_as_it_left_it(
    shop: Shop, valkey: ValkeyServer, heard, learn: Callable
) -> None:
    await shop.open(session(), session("cs_2", order_id="ORD-2"))
    await learn(shop, payment())
    [event] = heard.events
    assert (event.type, event.reason, event.payment, event.confirmed) == ("payment.completed", None, payment(), True)
    assert event.session == await shop.sessions.get("cs_1")
    assert event.session.status is SessionStatus.PAID
    assert event.occurred_at == NOW + timedelta(seconds=5)
    assert awaited(valkey) == {"cs_2"}


@by_each_way
async def test_a_pending_payment_is_shown_and_not_told(
    shop: Shop, valkey: ValkeyServer, heard, learn: Callable
) -> None:
    await shop.open(session())
    await learn(shop, payment(status="pending"))
    reached = await shop.sessions.get("cs_1")
    assert (reached.status, reached.transaction) == (SessionStatus.OPEN, payment(status="pending"))
    assert heard.events == []
    assert awaited(valkey) == {"cs_1"}


async def test_a_payment_is_told_of_in_each_status_once(shop: Shop, heard) -> None:
    await shop.open(session())
    for status in ("underpaid", "completed", "completed", "refunded", "underpaid", "refunded"):
        for learn in WAYS:
            await learn(shop, payment(status=status))
    assert heard.said() == [(f"payment.{status}", None, "41") for status in ("underpaid", "completed", "refunded")]
    assert [event.session.status for event in heard.events] == ["underpaid", "paid", "refunded"]


async def test_what_is_for_no_session_is_counted_once(shop: Shop, heard) -> None:
    await shop.open(session())
    rows = [payment("40", amount="1"), payment("41"), payment("42"), payment("43", order_id="elsewhere")]
    for row in rows + rows:
        await shop.push(row)
    assert (shop.counted("unmatched"), shop.counted("ambiguous"), shop.counted("paid")) == (1, 0, 1)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (payment(order_id="elsewhere"), ("payment.unmatched", "no-session", "41")),
        (payment(order_id=None), ("payment.unmatched", "no-reference", "41")),
        (payment(order_id=""), ("payment.unmatched", "no-reference", "41")),
        (payment(created_at=NOW - timedelta(hours=1)), ("payment.unmatched", "no-session", "41")),
        (payment(order_id="elsewhere", status="underpaid"), ("payment.underpaid", None, "41")),
        (payment(order_id=None, status="refunded"), ("payment.refunded", None, "41")),
    ],
)
async def test_a_payment_for_no_session_is_told_if_it_was_pushed_and_not_if_it_was_listed(
    shop: Shop, heard, row: Transaction, told: tuple[str, str | None, str]
) -> None:
    await shop.open(session())
    await shop.list(row)
    assert (heard.events, heard.asked) == ([], []), "lists are full of these"
    await shop.push(row)
    await shop.push(row)
    assert heard.said() == [told]
    assert heard.events[0].session is None
    assert await shop.status() == "open"


@by_each_way
async def test_a_session_that_vanished_meanwhile_is_no_session(
    shop: Shop, valkey: ValkeyServer, heard, learn: Callable
) -> None:
    await shop.open(session())

    class Vanishing(Faulty):
        async def move(self, session_id: str, change: Callable) -> Session | None:
            valkey.flush()
            return await shop.sessions.move(session_id, change)

    shop.settlement = shop.settling(sessions=Vanishing(shop.sessions, "", after=False))
    await learn(shop, payment())
    assert heard.said() == ([("payment.unmatched", "no-session", "41")] if learn is Shop.push else [])


# Attacks. Nothing in a genuine payment is trusted to name the right price, and nothing invented counts.


@by_each_way
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (payment(amount="0.01"), "amount"),
        (payment(amount="-49.99"), "amount"),
        (payment(currency="jpy"), "currency"),
        (payment(currency=None), "currency"),
    ],
    ids=["price edited down", "negative", "other currency", "no currency"],
)
async def test_an_edited_price_pays_nothing(
    shop: Shop, valkey: ValkeyServer, heard, learn: Callable, row: Transaction, reason: str
) -> None:
    await shop.open(session())
    await learn(shop, row)
    assert await shop.status() == "needs_review"
    assert heard.said() == [("payment.mismatched", reason, "41")]
    assert awaited(valkey) == {"cs_1"}, "its payment may yet come"
    await learn(shop, payment("42"))
    assert await shop.status() == "paid"
    assert heard.said()[1:] == [("payment.completed", None, "42")]


async def test_a_small_payment_with_the_reference_of_a_dear_order_pays_neither(shop: Shop, heard) -> None:
    await shop.open(session("cs_1", order_id="ORD-1", price="5.00"), session("cs_2", order_id="ORD-2", price="500.00"))
    await shop.push(payment(amount="5.00", order_id="ORD-2"))
    assert (await shop.status("cs_1"), await shop.status("cs_2")) == ("open", "needs_review")
    assert heard.said() == [("payment.mismatched", "amount", "41")]
    assert heard.events[0].session.id == "cs_2"


@pytest.mark.parametrize("reference", ["ORD-10", "ORD-", "ord-1", "ORD-1 ", " ORD-1", "ORD-1\x00", "ORD\u20101", "%"])
async def test_a_reference_that_only_looks_alike_is_another(shop: Shop, heard, reference: str) -> None:
    await shop.open(session())
    await shop.push(payment(order_id=reference))
    assert heard.said() == [("payment.unmatched", "no-session", "41")]
    assert await shop.status() == "open"


@by_each_way
async def test_a_payment_that_two_clients_can_claim_is_for_neither(shop: Shop, heard, learn: Callable) -> None:
    await shop.open(session("cs_1"), session("cs_2", client_id="other", price="5.00"))
    await learn(shop, payment(status="pending"))
    await learn(shop, payment())
    await learn(shop, payment())
    assert heard.said() == [("payment.unmatched", "ambiguous", "41")]
    assert (await shop.status("cs_1"), await shop.status("cs_2")) == ("open", "open")
    assert (shop.counted("ambiguous"), shop.counted("unmatched")) == (1, 0)


async def test_a_replay_tells_nothing_and_pays_no_later_session_of_the_order(shop: Shop, heard) -> None:
    await shop.open(session(created_at=NOW - timedelta(days=7)))
    row = payment(created_at=NOW - timedelta(days=7))
    await shop.push(row)
    await shop.open(session("cs_2"))
    for replayed in (row, replace(row, hash="0xcc", title="again")):
        await shop.push(replayed)
    assert heard.said() == [COMPLETED]
    assert await shop.status("cs_2") == "open"


async def test_a_replay_of_which_no_session_is_left_and_no_time_known_pays_nothing(
    shop: Shop, valkey: ValkeyServer, heard
) -> None:
    await shop.open(session())
    await shop.push(payment(created_at=None))
    valkey.flush()
    await shop.open(session("cs_2"))
    await shop.push(payment(created_at=None))
    assert await shop.status("cs_2") == "open"
    assert heard.said() == [COMPLETED]


@pytest.mark.parametrize("genuine", [payment("41"), payment("42")], ids=["of the same id", "of another id"])
@pytest.mark.parametrize("invented", [payment("41"), payment("41", amount="1000"), payment("41", status="refunded")])
async def test_a_leaked_secret_pays_nothing_and_keeps_no_payment_from_counting(
    shop: Shop, valkey: ValkeyServer, heard, invented: Transaction, genuine: Transaction
) -> None:
    await shop.open(session(), session("cs_2", order_id="ORD-2"))
    for _ in range(2):
        await shop.push_invented(invented)
    assert await shop.status() == "needs_review"
    assert heard.said() == [("payment.mismatched", "not-confirmed", "41")]
    assert not heard.events[0].confirmed
    assert awaited(valkey) == {"cs_1", "cs_2"}

    await shop.list(replace(genuine, order_id="ORD-2"))
    assert await shop.status("cs_2") == "paid", "the id that was invented pays its own order"
    await shop.push(payment("43"))
    assert await shop.status("cs_1") == "paid"
    assert heard.said()[1:] == [("payment.completed", None, genuine.id), ("payment.completed", None, "43")]


@by_each_way
async def test_a_payment_that_was_doubted_completes_once_it_is_confirmed(
    shop: Shop, valkey: ValkeyServer, heard, learn: Callable
) -> None:
    await shop.open(session())
    await shop.push_invented(payment())
    await learn(shop, payment())
    assert heard.said() == [("payment.mismatched", "not-confirmed", "41"), COMPLETED]
    assert await shop.status() == "paid"
    assert awaited(valkey) == set()


async def test_a_doubt_about_what_was_confirmed_meanwhile_is_none(shop: Shop, heard) -> None:
    await shop.open(session())
    await shop.list(payment())
    await shop.push_invented(payment())
    assert heard.said() == [COMPLETED]


@pytest.mark.parametrize("row", [payment(amount="1000"), payment(order_id="elsewhere"), payment(order_id=None)])
async def test_what_is_invented_touches_no_paid_session(shop: Shop, heard, row: Transaction) -> None:
    await shop.open(session())
    await shop.push(payment())
    paid = await shop.sessions.get("cs_1")
    await shop.push_invented(row)
    assert await shop.sessions.get("cs_1") == paid
    assert heard.said() == [COMPLETED, ("payment.mismatched", "not-confirmed", "41")]


async def test_a_payment_told_of_with_other_content_is_a_conflict_and_pays_nothing(shop: Shop, heard) -> None:
    await shop.open(session(), session("cs_2", order_id="ORD-2"))
    await shop.push(payment())
    for row in (payment(amount="500"), payment(order_id="ORD-2"), payment(currency="eur")):
        for learn in (*WAYS, Shop.push):
            await learn(shop, row)
    assert heard.said() == [COMPLETED, *[("payment.mismatched", "conflict", "41")] * 3]
    assert (await shop.status("cs_1"), await shop.status("cs_2")) == ("paid", "needs_review")
    await shop.push(payment("42", order_id="ORD-2"))
    assert await shop.status("cs_2") == "paid"


async def test_a_conflict_that_shows_only_when_telling_is_one_all_the_same(shop: Shop, heard) -> None:
    await shop.open(session(), session("cs_2", order_id="ORD-2"))
    await shop.push(payment(status="underpaid"))

    class LookedTooEarly(Faulty):
        async def told(self, _row: Transaction) -> None:
            return None

    shop.settlement = shop.settling(events=LookedTooEarly(heard, "", after=False))
    await shop.push(payment(status="underpaid", order_id="ORD-2"))
    assert heard.said() == [("payment.underpaid", None, "41"), ("payment.mismatched", "conflict", "41")]
    assert await shop.status("cs_2") == "needs_review"


# Killed between two steps, and done again by whoever comes next.

STEPS = [
    ("sessions", "with_reference"),
    ("events", "told"),
    ("sessions", "move"),
    ("events", "tell"),
    ("agenda", "remove"),
]


@by_each_way
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("part", "method"), STEPS, ids=[method for _, method in STEPS])
async def test_killed_at_any_step_it_is_all_done_once(
    shops: list[Shop], valkey: ValkeyServer, heard, part: str, method: str, after: bool, learn: Callable
) -> None:
    killed, other = shops[:2]
    await killed.open(session())
    faulty = Faulty(getattr(killed, part), method, after=after)
    killed.settlement = killed.settling(**{part: faulty})
    with pytest.raises(StorageUnavailable):
        await killed.push(payment())
    assert faulty.failed
    assert heard.events or awaited(valkey) == {"cs_1"}, "until it is told somebody must come back to it"
    await learn(other, payment())
    assert heard.said() == [COMPLETED]
    assert awaited(valkey) == set()
    reached = await other.sessions.get("cs_1")
    assert (reached.status, reached.version) == (SessionStatus.PAID, 2)
    assert heard.events[0].session == reached


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("part", "method"), STEPS[:-1], ids=[method for _, method in STEPS[:-1]])
async def test_a_doubt_that_is_cut_short_is_told_once_too(
    shop: Shop, heard, part: str, method: str, after: bool
) -> None:
    await shop.open(session())
    shop.settlement = shop.settling(**{part: Faulty(getattr(shop, part), method, after=after)})
    with pytest.raises(StorageUnavailable):
        await shop.push_invented(payment())
    await shop.push_invented(payment())
    assert heard.said() == [("payment.mismatched", "not-confirmed", "41")]
    assert (await shop.sessions.get("cs_1")).version == 2


# Several at once.


async def test_however_many_learn_of_a_payment_at_once_it_is_told_once(
    shops: list[Shop], valkey: ValkeyServer, heard
) -> None:
    for number in range(5):
        made = session(f"cs_{number}", order_id=f"ORD-{number}")
        row = payment(str(number), order_id=made.order_id)
        await shops[0].open(made)
        await asyncio.gather(*(learn(shop, row) for shop in shops for learn in (*WAYS, *WAYS)))
        assert await shops[0].status(made.id) == "paid"
    assert heard.said() == [("payment.completed", None, str(number)) for number in range(5)]
    assert awaited(valkey) == set()


async def test_what_several_tell_of_at_once_is_counted_once(shops: list[Shop]) -> None:
    await asyncio.gather(*(shop.push(payment()) for shop in shops for _ in range(2)))
    assert sum(shop.counted("unmatched") for shop in shops) == 1


async def test_of_two_payments_at_once_one_completes_the_order_and_one_is_a_duplicate(shops: list[Shop], heard) -> None:
    first, second = payment("41"), payment("42")
    for number, rows in enumerate([(first, second), (second, first)] * 3):
        made = session(f"cs_{number}", order_id=f"ORD-{number}")
        await shops[0].open(made)
        pair = [replace(row, id=f"{number}-{row.id}", order_id=made.order_id) for row in rows]
        await asyncio.gather(*(learn(shop, row) for row in pair for shop, learn in zip(shops, WAYS, strict=False)))
        shown = (await shops[0].sessions.get(made.id)).transaction.id
        told = {event.payment.id: event.type for event in heard.events if event.session.id == made.id}
        assert sorted(told.values()) == ["payment.completed", "payment.duplicate"]
        assert told[shown] == "payment.completed"
    assert len(heard.events) == 12


async def test_in_whatever_order_one_after_the_other_the_first_counts(shop: Shop, heard) -> None:
    for number, ids in enumerate(permutations(["41", "42", "43"])):
        made = session(f"cs_{number}", order_id=f"ORD-{number}")
        await shop.open(made)
        for payment_id in ids:
            await shop.push(payment(f"{number}-{payment_id}", order_id=made.order_id))
        types = [event.type for event in heard.events[-3:]]
        assert types == ["payment.completed", "payment.duplicate", "payment.duplicate"]
        assert heard.events[-3].payment.id == f"{number}-{ids[0]}"


rows = st.builds(
    payment,
    st.sampled_from(["41", "42"]),
    status=st.sampled_from(["pending", "completed", "underpaid", "refunded"]),
    amount=st.sampled_from(["49.99", "1"]),
    order_id=st.sampled_from(["ORD-1", "ORD-2", "ORD-3", None]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(rows, st.sampled_from([*WAYS, Shop.push_invented])), max_size=8))
async def test_whatever_comes_a_session_is_paid_exactly_if_that_was_told(
    shop: Shop, valkey: ValkeyServer, heard, steps: list
) -> None:
    valkey.flush()
    heard.forget()
    heard.events.clear()
    await shop.open(session(), session("cs_2", order_id="ORD-2"))
    for row, learn in steps:
        await learn(shop, row)
    completed = [event for event in heard.events if event.type == "payment.completed"]
    assert len({event.id for event in heard.events}) == len(heard.events)
    for session_id in ("cs_1", "cs_2"):
        reached = await shop.sessions.get(session_id)
        own = [event for event in completed if event.session.id == session_id]
        if reached.status is SessionStatus.PAID:
            assert [event.payment.id for event in own] == [reached.transaction.id]
        if reached.status in {SessionStatus.OPEN, SessionStatus.UNDERPAID, SessionStatus.NEEDS_REVIEW}:
            assert own == []
            assert session_id in awaited(valkey)
        else:
            assert session_id not in awaited(valkey)
    assert all(event.confirmed and event.payment.fiat_amount == Decimal("49.99") for event in completed)
