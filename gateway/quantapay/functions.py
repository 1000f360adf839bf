"""The translation table: one row a QuantaPay function (contract §6).

A row says how our parameters travel as form fields, how the answer is read, how urgent the call is, and whether it
may be sent twice. A new function is a new row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Generic, TypeVar

from gateway.quantapay import readers
from gateway.quantapay.envelope import JsonValue
from gateway.quantapay.models import Balances, CheckoutPage, CreditBalance, Transaction
from gateway.quantapay.urgency import Urgency

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Function(Generic[T_co]):
    """How one QuantaPay function is called and read."""

    name: str
    """The documented name; `functions.rename` may send another one."""
    read: Callable[[JsonValue], T_co]
    """Raises `UpstreamInvalidResponse` or an `UpstreamRefusal` for what it cannot take."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Our parameter → form field, in the order they go on the wire."""
    signed: bool = False
    """Carries a timestamp and an HMAC (contract §5), so its answer may be "Request expired"."""
    repeatable: bool = True
    """A second sending does no harm. Otherwise a failure says what became of the call (`outcome`)."""
    urgency: Urgency = Urgency.READ
    """Which part of the budget it may use (interface §2.3)."""

    def form(self, parameters: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the form fields of the parameters given, in wire order."""
        return [(sent_as, parameters[name]) for name, sent_as in self.fields.items() if name in parameters]


GET_BALANCES: Function[Balances] = Function("get-balances", readers.balances)

GET_CREDIT_BALANCE: Function[CreditBalance] = Function("get-credit-balance", readers.credit_balance)

GET_EXCHANGE_RATES: Function[Decimal] = Function(
    "get-exchange-rates",
    readers.exchange_rate,
    fields={"currency": "currency_code", "cryptocurrency": "cryptocurrency_code"},
)

GET_TRANSACTIONS: Function[tuple[Transaction, ...]] = Function(
    "get-transactions",
    readers.transactions,
    fields={
        "page": "pagination",
        "search": "search",
        "status": "status",
        "cryptocurrency": "cryptocurrency",
        "created_from": "date_range[0]",
        "created_to": "date_range[1]",
    },
)

GET_TRANSACTION: Function[Transaction | None] = Function(
    "get-transaction",
    readers.transaction,
    fields={"id": "transaction_id"},
)

CREATE_CHECKOUT_SESSION: Function[CheckoutPage] = Function(
    "create-checkout-session",
    readers.checkout_page,
    fields={name: name for name in ("price", "currency", "order_id", "timestamp", "signature")},
    signed=True,
    repeatable=False,
    urgency=Urgency.URGENT,
)

FUNCTIONS: tuple[Function[object], ...] = (
    GET_BALANCES,
    GET_CREDIT_BALANCE,
    GET_EXCHANGE_RATES,
    GET_TRANSACTIONS,
    GET_TRANSACTION,
    CREATE_CHECKOUT_SESSION,
)
"""Every function that a route of its own calls."""


def passthrough(name: str, parameters: Mapping[str, str]) -> Function[JsonValue]:
    """Make the row of a function that only `/functions/{function}` serves: fields and answer as they are.

    What it does upstream is not known here, so what may have arrived is never sent again.
    """
    return Function(name, readers.as_is, fields={name: name for name in parameters}, repeatable=False)
