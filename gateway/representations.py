"""How payments and sessions are written as JSON, in answers, event streams and webhooks alike (interface §3)."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from gateway.money import plain
from gateway.payments.session import Session, SessionStatus
from gateway.quantapay.models import TransactionStatus


def _write(value: object) -> object:
    return plain(value) if isinstance(value, Decimal) else value


Amount = Annotated[
    str,
    BeforeValidator(_write),
    WithJsonSchema({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]*)?$"}),
    Field(description="A decimal number as text, exact, without exponent.", examples=["0.5432"]),
]


class Transaction(BaseModel):
    """One payment. What QuantaPay left empty is null."""

    id: str = Field(examples=["42"])
    quantapay_reference: str | None = Field(description="`biz_id`.", examples=["QP-20260410-0A1B2"])
    title: str | None
    description: str | None
    from_address: str | None
    to_address: str | None
    hash: str | None
    amount: Amount | None
    cryptocurrency: str | None = Field(examples=["eth"])
    fiat_amount: Amount | None
    currency: str | None = Field(examples=["usd"])
    order_id: str | None = Field(
        description="`external_reference`. The payer can edit it: compare the amount with your own order."
    )
    status: TransactionStatus
    raw_status: str | None = Field(description="QuantaPay's own code.", examples=["C"])
    created_at: datetime | None

    model_config = ConfigDict(from_attributes=True)


class TransactionSummary(BaseModel):
    """What a browser may know of a payment."""

    id: str = Field(examples=["42"])
    hash: str | None
    status: TransactionStatus
    amount: Amount | None
    cryptocurrency: str | None = Field(examples=["eth"])

    model_config = ConfigDict(from_attributes=True)


class _CommonSession(BaseModel):
    id: str = Field(examples=["cs_5f0c8b1d4e2a49769cde83b0a1f4d7e6"])
    status: SessionStatus = Field(
        description="It moves only forward, in this order. `needs_review`: paid, with another amount or "
        "currency, or not certainly."
    )
    payment_url: str = Field(description="QuantaPay's hosted page: send the customer there.")
    price: str = Field(examples=["49.99"])
    currency: str = Field(examples=["usd"])
    order_id: str = Field(examples=["ORD-1"])
    created_at: datetime


class CheckoutSession(_CommonSession):
    """A payment under way, as its own client sees it."""

    metadata: dict[str, str]
    transaction: Transaction | None = Field(description="The payment, once there is one.")

    @classmethod
    def of(cls, session: Session) -> "CheckoutSession":
        """Return what a secret key may see."""
        found = session.transaction
        return cls(
            **_common(session),
            metadata=dict(session.metadata),
            transaction=None if found is None else Transaction.model_validate(found),
        )


class BrowserCheckoutSession(_CommonSession):
    """A payment under way, as a browser sees it: no metadata, no addresses."""

    transaction: TransactionSummary | None = Field(description="The payment, once there is one.")

    @classmethod
    def of(cls, session: Session) -> "BrowserCheckoutSession":
        """Return what whoever holds the session's token may see."""
        found = session.transaction
        return cls(**_common(session), transaction=None if found is None else TransactionSummary.model_validate(found))


def _common(session: Session) -> dict[str, object]:
    return {name: getattr(session, name) for name in _CommonSession.model_fields}


def as_seen(session: Session, *, by_token: bool) -> str:
    """Write a session down for who looks at it."""
    model = BrowserCheckoutSession if by_token else CheckoutSession
    return model.of(session).model_dump_json()
