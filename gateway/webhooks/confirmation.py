"""Reading a payment back from QuantaPay, to see whether it says itself what its webhook said (interface §3.8).

A webhook proves only that its sender knows the secret, which travels in clear. The payment that QuantaPay returns
when it is asked with the merchant's key is what counts.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.config import Webhooks
from gateway.errors import FunctionNotSupported, UpstreamError
from gateway.quantapay.client import QuantaPay
from gateway.quantapay.functions import GET_TRANSACTION
from gateway.quantapay.guard import REFUSALS
from gateway.quantapay.models import Transaction, TransactionStatus
from gateway.quantapay.urgency import Urgency

_ID = re.compile("[0-9]{1,20}", re.ASCII)
"""The ids that QuantaPay gives; it fails at others in ways that look like an outage (contract §6.3)."""
_COMPARED = ("amount", "cryptocurrency", "fiat_amount", "currency", "order_id")
"""What a payment is about. Texts that come and go (title, hash, addresses) are not in it."""
_LATER: dict[TransactionStatus, frozenset[TransactionStatus]] = {
    "underpaid": frozenset({"completed", "refunded"}),
    "completed": frozenset({"refunded"}),
}
"""What a payment can have become since its webhook was sent."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The payment counts."""

    payment: Transaction
    """As QuantaPay returned it, if `confirmed`; else as the webhook told it."""
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """QuantaPay does not know the payment, or not so. It may yet: its webhook can be ahead of its database."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """QuantaPay did not say."""

    cause: str
    """The code of the error."""
    asked: bool
    """Whether it was asked at all. If not, our own limits kept the call back."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """QuantaPay says that it has no function to ask it by, and the payment may count without."""


Answer = Accepted | Denied | Unknown | Unsupported


class Confirmation:
    """Asks QuantaPay for payments, as gateway.yaml wants it."""

    def __init__(self, quantapay: QuantaPay, webhooks: Callable[[], Webhooks]) -> None:
        """`webhooks` returns the section of gateway.yaml that is in force."""
        self._quantapay = quantapay
        self._webhooks = webhooks

    def asks(self, payment: Transaction) -> bool:
        """Tell whether QuantaPay would be asked for a payment."""
        return self._webhooks().confirm != "off" and _ID.fullmatch(payment.id) is not None

    async def check(self, payment: Transaction, *, urgency: Urgency) -> Answer:
        """Return what QuantaPay says of a payment; `urgency` is the part of the budget that the call may use."""
        confirm = self._webhooks().confirm
        if confirm == "off":
            return Accepted(payment, confirmed=False)
        if not _ID.fullmatch(payment.id):
            return Denied()
        try:
            row = await self._quantapay.call(replace(GET_TRANSACTION, urgency=urgency), {"id": payment.id})
        except FunctionNotSupported:
            return Unsupported() if confirm == "when-available" else Denied()
        except UpstreamError as error:
            return Unknown(error.code, asked=not isinstance(error, REFUSALS))
        if row is None or not _bears_out(row, payment):
            return Denied()
        return Accepted(row, confirmed=True)


def _bears_out(row: Transaction, payment: Transaction) -> bool:
    """Tell whether a row is this payment, in the same state or a later one.

    What the webhook left out is not contradicted: its form of March has no reference where the row has one.
    """
    said = {name: value for name in _COMPARED if (value := getattr(payment, name)) is not None}
    is_the_same = row.id == payment.id and all(getattr(row, name) == value for name, value in said.items())
    return is_the_same and (row.status == payment.status or row.status in _LATER.get(payment.status, ()))
