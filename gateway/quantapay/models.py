"""What QuantaPay's answers mean, as values: exact decimals, lower-case codes, aware times."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

TransactionStatus = Literal["pending", "completed", "underpaid", "refunded", "unknown"]


@dataclass(frozen=True, slots=True)
class Balance:
    """What the merchant holds of one coin."""

    cryptocurrency: str
    amount: Decimal
    """In the coin."""
    fiat_value: Decimal
    """In the account's currency."""


@dataclass(frozen=True, slots=True)
class Balances:
    """Every coin with a configured address, sorted by code (contract §6.6)."""

    balances: tuple[Balance, ...]
    currency: str | None
    """The fiat currency of the values; the documented answer does not say it."""


@dataclass(frozen=True, slots=True)
class CreditBalance:
    """Prepaid credits that pay QuantaPay's fee; may be negative (contract §6.5)."""

    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class CheckoutPage:
    """The hosted page of a new checkout session (contract §6.1)."""

    payment_url: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """One payment row (contract §6.4); what QuantaPay left empty is `None`."""

    id: str
    quantapay_reference: str | None
    title: str | None
    description: str | None
    from_address: str | None
    to_address: str | None
    hash: str | None
    amount: Decimal | None
    """In the coin."""
    cryptocurrency: str | None
    fiat_amount: Decimal | None
    currency: str | None
    order_id: str | None
    """The reference the session was made with. A payer can edit it: never proof of what was ordered."""
    status: TransactionStatus
    raw_status: str | None
    created_at: datetime | None
