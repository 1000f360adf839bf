"""A session and a payment as tests want them: one that pays the other, unless told otherwise."""

from datetime import UTC, datetime
from decimal import Decimal

from gateway.payments.session import Session
from gateway.quantapay.models import Transaction

MADE = datetime(2026, 4, 10, 9, tzinfo=UTC)


def session(**fields) -> Session:
    defaults = {
        "id": "cs_1",
        "client_id": "shop",
        "price": "49.99",
        "currency": "usd",
        "order_id": "ORD-1",
        "payment_url": "https://cloud.quantapay.app/pay/1",
        "created_at": MADE,
    }
    return Session(**(defaults | fields))


def payment(status: str = "completed", **fields) -> Transaction:
    """Return a payment whose fields are empty but for those that are compared with a session."""
    defaults = dict.fromkeys(Transaction.__slots__) | {
        "id": "41",
        "status": status,
        "fiat_amount": Decimal("49.99"),
        "currency": "usd",
        "order_id": "ORD-1",
        "created_at": MADE,
    }
    return Transaction(**(defaults | fields))


WEBHOOK_PAYMENT = payment(
    id="42", raw_status="C", amount=Decimal("0.0125"), cryptocurrency="eth", hash="0xcc", created_at=None
)
"""As a webhook tells of it."""
