"""What subscribers are told about a payment, as a value (interface §3.8)."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, Protocol

from gateway.config import EventName
from gateway.money import plain
from gateway.payments.session import Session
from gateway.quantapay.models import Transaction

Reason = Literal[
    "amount",
    "currency",
    "not-confirmed",
    "conflict",
    "no-reference",
    "no-session",
    "ambiguous",
]
"""Why a payment is not simply completed: it is of another amount, or in another currency; QuantaPay, asked for it, does
not know it so; it was told of before, with other content; it has no reference, one that no session has, or one that
several have that ask for different things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentEvent:
    """One thing to tell."""

    type: EventName
    payment: Transaction
    session: Session | None
    """The session that the payment is for, as the payment left it."""
    confirmed: bool
    """Whether `payment` was read from QuantaPay, and not only pushed by who knows the webhook secret."""
    reason: Reason | None = None
    occurred_at: datetime
    """UTC."""

    @property
    def id(self) -> str:
        """Return the `webhook-id`: the same for the same payment and type, whichever way we learned of it.

        A doubt about a payment must not use up the id of what is told once the payment is certain. So it has one of
        its own for each content.
        """
        parts = [self.payment.id, self.type]
        if self.reason in {"not-confirmed", "conflict"}:
            parts += [self.reason, self.payment.status, content(self.payment)]
        return f"msg_{_digest(*parts)}"


def content(payment: Transaction) -> str:
    """Return a digest of what a payment is about. Texts that come and go (title, hash, addresses) are not in it."""
    amounts = (_plainest(payment.amount), _plainest(payment.fiat_amount))
    return _digest(*amounts, payment.currency, payment.cryptocurrency, payment.order_id)


def _plainest(amount: Decimal | None) -> str | None:
    if amount is None:
        return None
    text = plain(amount)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _digest(*parts: str | None) -> str:
    # `repr`, so that no part can be taken for two, nor None for a text.
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


Told = Literal["new", "known", "conflict"]


class Events(Protocol):
    """Where events go. Raises `StorageUnavailable`; telling again is right then."""

    async def told(self, payment: Transaction) -> str | None:
        """Return the `content` with which this payment was told about in its status, if it was."""

    async def tell(self, event: PaymentEvent) -> Told:
        """Tell subscribers, once for each event id however often this is called.

        A `conflict` means that this payment was told about in its status meanwhile, with other content: nothing was
        told. Events with the reason `not-confirmed` or `conflict` never conflict, and do not count in `told`.
        """
