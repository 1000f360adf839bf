"""The outbox: each payment event is put, once and in one step, in the queue of every subscriber that wants it.

What lies in a queue is the very text that is sent (interface §3.8). What was told of a payment is remembered beside
the queues, so neither a webhook that comes twice nor a reconciliation that finds the same makes a second event.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from pydantic import BaseModel, Field, JsonValue

from gateway.config import EventName, Subscriber
from gateway.payments.events import PaymentEvent, Reason, Told, content
from gateway.quantapay.models import Transaction as Payment
from gateway.representations import CheckoutSession, Transaction
from gateway.store.queue import TAG, Known, Put, Queue, known, put
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics

log = structlog.get_logger()

LEASE = 30.0
"""Seconds in which a taken event is delivered or put off: three times what an attempt may take."""

_TO_LOOK_AT = frozenset({"payment.mismatched", "payment.unmatched", "payment.duplicate"})
"""Events that a person should see to."""
_TOLD: dict[Put, Told] = {
    Put.PUT: "new",
    Put.THERE: "known",  # its history is gone, but a subscriber's queue still has it
    Put.KNOWN: "known",
    Put.CONFLICT: "conflict",
}


class EventData(BaseModel):
    """What an event is about."""

    transaction: Transaction
    checkout_session: CheckoutSession | None = Field(description="Null if the payment is for no known session.")
    confirmed: bool = Field(description="Whether QuantaPay, asked for the payment, said the same.")
    reason: Reason | None = Field(
        default=None,
        exclude_if=lambda reason: reason is None,
        description="Why the payment is not simply completed. Absent if there is nothing to say.",
    )


class EventBody(BaseModel):
    """What a subscriber receives."""

    type: EventName
    timestamp: datetime = Field(description="When it happened.")
    data: EventData


def subscriber_queue(store: Store, subscriber_id: str) -> Queue:
    """Return the queue of the events that a subscriber has still to receive."""
    return Queue(store, f"subscriber:{subscriber_id}", lease=LEASE)


def body_of(event: PaymentEvent) -> str:
    """Write what is sent for an event, as JSON that is valid UTF-8 whatever texts a payer made."""
    session = event.session
    body = EventBody(
        type=event.type,
        timestamp=event.occurred_at,
        data=EventData(
            transaction=Transaction.model_validate(event.payment),
            checkout_session=None if session is None else CheckoutSession.of(session),
            confirmed=event.confirmed,
            reason=event.reason,
        ),
    )
    return json.dumps(_encodable(body.model_dump(mode="json")), ensure_ascii=False, separators=(",", ":"))


class Outbox:
    """Tells subscribers (`gateway.payments.events.Events`)."""

    def __init__(
        self,
        store: Store,
        *,
        subscribers: Callable[[], Sequence[Subscriber]],
        wake: Callable[[str], None],
        metrics: Metrics,
    ) -> None:
        """Tell the `subscribers` configured now; call `wake` with the id of each that has a new event."""
        self._store = store
        self._subscribers = subscribers
        self._wake = wake
        self._metrics = metrics

    async def told(self, payment: Payment) -> str | None:
        """Return the `content` with which this payment was told about in its status, if it was."""
        return await known(self._store, _history(payment), payment.status)

    async def tell(self, event: PaymentEvent) -> Told:
        """Put an event in the queue of each subscriber that wants it, once for each event id.

        Without subscribers it is remembered all the same: one that is configured later is not told of the past.
        Raises `StorageUnavailable`; telling again is right then.
        """
        wanting = [subscriber.id for subscriber in self._subscribers() if subscriber.wants(event.type)]
        result = await put(
            self._store,
            [subscriber_queue(self._store, subscriber_id) for subscriber_id in wanting],
            event.id,
            body_of(event),
            group=_group(event),
            once=Known(history=_history(event.payment), subject=_subject(event), digest=content(event.payment)),
        )
        if result in {Put.PUT, Put.THERE}:
            for subscriber_id in wanting:
                self._wake(subscriber_id)
        if result is Put.PUT:
            self._metrics.payment_events.labels(type=event.type).inc()
            _log(event)
        return _TOLD[result]


def _history(payment: Payment) -> str:
    return f"qpg:{TAG}:payment:{_digest(payment.id)}"


def _subject(event: PaymentEvent) -> str:
    """Return what of its payment an event tells: the status, which is told once, or a doubt, which is one of many."""
    status = event.payment.status
    if event.reason in {"not-confirmed", "conflict"}:
        return f"{status} {event.reason} {content(event.payment)}"
    return status


def _group(event: PaymentEvent) -> str:
    """Return what events are kept in order by. Ids of payments are QuantaPay's, of any length and any characters."""
    return event.session.id if event.session else _digest(event.payment.id)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _log(event: PaymentEvent) -> None:
    level = log.warning if event.type in _TO_LOOK_AT else log.info
    level(
        "payment event",
        type=event.type,
        reason=event.reason,
        transaction_id=_encodable(event.payment.id),
        session_id=event.session.id if event.session else None,
    )


def _encodable(value: JsonValue) -> JsonValue:
    """Replace halves of surrogate pairs by U+FFFD: JSON can spell them, but no encoding can carry them."""
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case list():
            return [_encodable(item) for item in value]
        case dict():
            return {str(_encodable(name)): _encodable(item) for name, item in value.items()}
    return value
