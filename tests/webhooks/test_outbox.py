"""The outbox on a real Valkey: what subscribers are told, how often, and in which words."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.config import Subscriber
from gateway.errors import StorageUnavailable
from gateway.payments.events import PaymentEvent, content
from gateway.payments.session import Session, SessionStatus
from gateway.quantapay.models import Transaction
from gateway.store.client import connect
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.webhooks.outbox import EventBody, Outbox, subscriber_queue
from tests.plugins.valkey import ValkeyServer

SECRET = "whsec_" + "QUFB" * 8
AT = datetime(2026, 4, 10, 12, 0, 1, 250_000, tzinfo=UTC)
PAYMENT = Transaction(
    id="42",
    quantapay_reference="QP-1",
    title=None,
    description=None,
    from_address=None,
    to_address="0xabc",
    hash=None,
    amount=Decimal("1E-8"),
    cryptocurrency="eth",
    fiat_amount=Decimal("49.990"),
    currency="usd",
    order_id="ORD-1",
    status="completed",
    raw_status="C",
    created_at=datetime(2026, 4, 10, 12, 0, tzinfo=UTC),
)
SESSION = Session(
    id="cs_" + "5" * 32,
    client_id="orders",
    price="49.99",
    currency="usd",
    order_id="ORD-1",
    metadata={"cart": "7"},
    payment_url="https://pay.example/1",
    created_at=datetime(2026, 4, 10, 11, 59, tzinfo=UTC),
    status=SessionStatus.PAID,
    version=2,
    transaction=PAYMENT,
)


def event(**changed: Any) -> PaymentEvent:
    completed = PaymentEvent(type="payment.completed", payment=PAYMENT, session=SESSION, confirmed=True, occurred_at=AT)
    return replace(completed, **changed)


def subscriber(name: str, *events: str) -> Subscriber:
    return Subscriber.model_validate(
        {"id": name, "url": "https://a.example/hook", "secret": [SECRET], "events": events or ["*"]}
    )


class Sent:
    """An outbox, and what became of all that was told to it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.subscribers = [subscriber("all"), subscriber("refunds", "payment.refunded")]
        self.woken: list[str] = []
        self.metrics = Metrics()
        self.outbox = Outbox(store, subscribers=lambda: self.subscribers, wake=self.woken.append, metrics=self.metrics)

    async def to(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """Return what is in a subscriber's queue, each as id and body, and remove it."""
        queue = subscriber_queue(self.store, name)
        taken = await queue.take(100)
        for message in taken:
            message.message.encode()  # as it is sent
            await queue.finish(message)
        return [(message.id, json.loads(message.message)) for message in taken]

    def counted(self, name: str = "payment.completed") -> float | None:
        return self.metrics.registry.get_sample_value("gateway_payment_events_total", {"type": name})


@pytest.fixture
async def sent(valkey: ValkeyServer) -> AsyncIterator[Sent]:
    store = Store(Redis.from_url(valkey.url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)
    yield Sent(store)
    await store.close()


async def test_a_subscriber_is_told_the_payment_and_its_session(sent: Sent) -> None:
    assert await sent.outbox.tell(event()) == "new"
    transaction = {
        "id": "42",
        "quantapay_reference": "QP-1",
        "title": None,
        "description": None,
        "from_address": None,
        "to_address": "0xabc",
        "hash": None,
        "amount": "0.00000001",
        "cryptocurrency": "eth",
        "fiat_amount": "49.990",
        "currency": "usd",
        "order_id": "ORD-1",
        "status": "completed",
        "raw_status": "C",
        "created_at": "2026-04-10T12:00:00Z",
    }
    [(message_id, body)] = await sent.to("all")
    assert message_id == event().id
    assert body == {
        "type": "payment.completed",
        "timestamp": "2026-04-10T12:00:01.250000Z",
        "data": {
            "transaction": transaction,
            "checkout_session": {
                "id": SESSION.id,
                "status": "paid",
                "payment_url": "https://pay.example/1",
                "price": "49.99",
                "currency": "usd",
                "order_id": "ORD-1",
                "created_at": "2026-04-10T11:59:00Z",
                "metadata": {"cart": "7"},
                "transaction": transaction,
            },
            "confirmed": True,
        },
    }
    EventBody.model_validate(body)


async def test_a_reason_is_told_if_there_is_one_and_a_missing_session_is_null(sent: Sent) -> None:
    await sent.outbox.tell(event(type="payment.unmatched", session=None, reason="no-session", confirmed=False))
    [(_, body)] = await sent.to("all")
    assert (body["data"]["checkout_session"], body["data"]["confirmed"]) == (None, False)
    assert body["data"]["reason"] == "no-session"


async def test_only_who_wants_an_event_gets_it_and_is_woken(sent: Sent) -> None:
    await sent.outbox.tell(event())
    assert sent.woken == ["all"]
    other = replace(PAYMENT, id="43", status="refunded")
    await sent.outbox.tell(event(type="payment.refunded", payment=other, session=None))
    assert sent.woken == ["all", "all", "refunds"]
    assert [body["type"] for _, body in await sent.to("refunds")] == ["payment.refunded"]
    assert {body["type"] for _, body in await sent.to("all")} == {"payment.completed", "payment.refunded"}


async def test_the_subscribers_are_those_of_the_moment(sent: Sent) -> None:
    sent.subscribers = [subscriber("newer")]
    await sent.outbox.tell(event())
    assert await sent.to("all") == []
    assert len(await sent.to("newer")) == 1


async def test_an_event_is_told_and_counted_once_however_it_was_learned_of(sent: Sent) -> None:
    assert sent.counted() == 0
    assert await sent.outbox.told(PAYMENT) is None
    assert await sent.outbox.tell(event(confirmed=False)) == "new"
    assert await sent.outbox.tell(event()) == "known"
    assert len(await sent.to("all")) == 1
    assert await sent.outbox.tell(event(occurred_at=datetime(2026, 4, 17, tzinfo=UTC))) == "known"
    assert await sent.to("all") == []
    assert await sent.outbox.told(PAYMENT) == content(PAYMENT)
    assert (sent.counted(), sent.woken) == (1, ["all"])


async def test_without_a_subscriber_events_are_counted_and_remembered(sent: Sent) -> None:
    sent.subscribers = []
    assert await sent.outbox.tell(event()) == "new"
    assert await sent.outbox.tell(event()) == "known"
    assert sent.counted() == 1
    assert await sent.outbox.told(PAYMENT) == content(PAYMENT)


async def test_a_payment_that_was_told_with_other_content_is_a_conflict_and_not_told(sent: Sent) -> None:
    dearer = replace(PAYMENT, fiat_amount=Decimal(50))
    await sent.outbox.tell(event())
    assert await sent.outbox.tell(event(payment=dearer)) == "conflict"
    assert await sent.outbox.tell(event(type="payment.mismatched", reason="amount", payment=dearer)) == "conflict"
    assert await sent.outbox.told(dearer) == content(PAYMENT)
    assert len(await sent.to("all")) == 1
    assert (sent.counted(), sent.counted("payment.mismatched")) == (1, 0)


@pytest.mark.parametrize("reason", ["not-confirmed", "conflict"])
async def test_doubts_never_conflict_do_not_count_as_told_and_are_told_once_each(sent: Sent, reason: str) -> None:
    doubt = event(type="payment.mismatched", reason=reason, payment=replace(PAYMENT, fiat_amount=Decimal(1)))
    another = replace(doubt, payment=replace(PAYMENT, fiat_amount=Decimal(2)))
    told = [await sent.outbox.tell(one) for one in (doubt, another, doubt, another)]
    assert told == ["new", "new", "known", "known"]
    assert await sent.outbox.told(PAYMENT) is None
    assert await sent.outbox.tell(event()) == "new", "a doubt does not keep the truth from being told"
    assert await sent.outbox.tell(replace(doubt, payment=replace(PAYMENT, fiat_amount=Decimal(3)))) == "new"
    assert sent.counted("payment.mismatched") == 3


async def test_an_event_whose_history_was_lost_is_not_put_beside_itself(sent: Sent, valkey: ValkeyServer) -> None:
    await sent.outbox.tell(event())
    with valkey.client() as redis:
        [history] = redis.keys("*:payment:*")
        redis.delete(history)
    assert await sent.outbox.tell(event()) == "known"
    assert len(await sent.to("all")) == 1
    assert sent.counted() == 1


async def test_events_of_a_session_are_delivered_in_order(sent: Sent) -> None:
    underpaid = replace(PAYMENT, id="41", status="underpaid")
    await sent.outbox.tell(event(type="payment.underpaid", payment=underpaid))
    await sent.outbox.tell(event())
    queue = subscriber_queue(sent.store, "all")
    [first] = await queue.take(10)
    assert json.loads(first.message)["type"] == "payment.underpaid"


async def test_events_of_a_payment_without_session_are_delivered_in_order(sent: Sent) -> None:
    for status, name in (("completed", "payment.unmatched"), ("refunded", "payment.refunded")):
        await sent.outbox.tell(event(type=name, payment=replace(PAYMENT, status=status), session=None))
    assert len(await subscriber_queue(sent.store, "all").take(10)) == 1


HALVES = "\ud83d", "\ude00", "a\udc00\ud800b", "\udcff"


@pytest.mark.parametrize("half", HALVES, ids=ascii)
async def test_texts_that_no_encoding_can_carry_are_told_as_far_as_they_can_be(sent: Sent, half: str) -> None:
    payment = replace(PAYMENT, id=half, order_id=half, title=f"№ {half}")
    session = replace(SESSION, order_id=half, metadata={half: half}, transaction=payment)
    assert await sent.outbox.tell(event(payment=payment, session=session)) == "new"
    assert await sent.outbox.told(payment) == content(payment)
    [(_, body)] = await sent.to("all")
    shown = half.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert "\ufffd" in shown
    assert body["data"]["transaction"]["order_id"] == shown
    assert body["data"]["transaction"]["title"] == f"№ {shown}"
    assert body["data"]["checkout_session"]["order_id"] == shown


async def test_two_halves_that_make_a_character_are_one_and_control_characters_stay(sent: Sent) -> None:
    await sent.outbox.tell(event(payment=replace(PAYMENT, title='\ud83d\ude00 \x00\x1b"\\\n')))
    [(_, body)] = await sent.to("all")
    assert body["data"]["transaction"]["title"] == '\U0001f600 \x00\x1b"\\\n'


@pytest.mark.parametrize("transaction_id", ["x" * 10_000, "a b:{c}\n", "\ud800"], ids=["long", "odd", "half"])
async def test_no_key_names_a_payment(sent: Sent, valkey: ValkeyServer, transaction_id: str) -> None:
    await sent.outbox.tell(event(payment=replace(PAYMENT, id=transaction_id), session=None))
    with valkey.client() as redis:
        keys = [key.decode() for key in redis.keys("*")]
        groups = [group.decode() for group in redis.hkeys("qpg:{events}:subscriber:all:newest")]
    assert len(keys) == 6  # nobody is dead
    assert all(len(name) < 64 and name.isprintable() for name in [*keys, *groups])


async def test_each_new_event_is_logged_by_names_and_no_more(sent: Sent) -> None:
    with structlog.testing.capture_logs() as lines:
        await sent.outbox.tell(event())
        await sent.outbox.tell(event())
        await sent.outbox.tell(
            event(
                type="payment.mismatched", reason="not-confirmed", session=None, payment=replace(PAYMENT, id="\ud800")
            )
        )
    assert lines == [
        {
            "event": "payment event",
            "log_level": "info",
            "type": "payment.completed",
            "reason": None,
            "transaction_id": "42",
            "session_id": SESSION.id,
        },
        {
            "event": "payment event",
            "log_level": "warning",
            "type": "payment.mismatched",
            "reason": "not-confirmed",
            "transaction_id": "\ufffd",
            "session_id": None,
        },
    ]


@pytest.mark.parametrize("name", ["payment.unmatched", "payment.duplicate"])
async def test_what_a_person_should_look_at_is_a_warning(sent: Sent, name: str) -> None:
    with structlog.testing.capture_logs() as lines:
        await sent.outbox.tell(event(type=name))
    assert [line["log_level"] for line in lines] == ["warning"]


async def test_without_redis_nothing_is_told_counted_or_woken() -> None:
    store = Store(connect("redis://127.0.0.1:1"), clock=SystemClock(), metrics=Metrics())
    sent = Sent(store)
    with pytest.raises(StorageUnavailable):
        await sent.outbox.tell(event())
    with pytest.raises(StorageUnavailable):
        await sent.outbox.told(PAYMENT)
    assert (sent.counted(), sent.woken) == (0, [])
    await store.close()
