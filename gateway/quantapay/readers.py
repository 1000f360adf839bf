"""From the `response` of an envelope to a value of ours, one reader a function.

Each tolerates the shapes of contract §9 and §10 and nothing else: what does not fit raises
`UpstreamInvalidResponse`, and a text where a document belongs is the refusal it probably is.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal

from gateway.errors import UpstreamInvalidResponse
from gateway.quantapay.envelope import JsonValue, looks_like_error_text, refused_text
from gateway.quantapay.models import (
    Balance,
    Balances,
    CheckoutPage,
    CreditBalance,
    Transaction,
    TransactionStatus,
)

_CODE = re.compile(r"[a-z0-9_-]{2,20}", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]{1,60}(\.[0-9]{0,60})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_LONGEST_TEXT = 10_000
"""Ten times the longest column known (contract §6.1)."""

_STATUSES: dict[str, TransactionStatus] = {
    "P": "pending",
    "C": "completed",
    "X": "underpaid",
    "R": "refunded",
}
"""Contract §7."""


def as_is(value: JsonValue) -> JsonValue:
    """Return the answer untouched, for functions that the table does not know; a text may be a refusal."""
    if isinstance(value, str) and looks_like_error_text(value):
        raise refused_text(value)
    return value


def balances(value: JsonValue) -> Balances:
    """Read the flat documented map, the nested one with a currency beside it, and `[]` (contract §6.6)."""
    document = _object(value)
    nested = document.get("balances")
    by_code = _object(nested) if isinstance(nested, (dict, list)) else document
    rows = []
    for code, holding in by_code.items():
        fields = _object(holding)
        rows.append(
            Balance(
                cryptocurrency=_code(code),
                amount=_number(fields.get("amount")),
                fiat_value=_number(fields.get("fiat")),
            )
        )
    currency = document.get("currency") if by_code is not document else None
    return Balances(
        balances=tuple(sorted(rows, key=lambda row: row.cryptocurrency)),
        currency=_code(currency) if currency else None,
    )


def credit_balance(value: JsonValue) -> CreditBalance:
    """Read `{"credit_balance": 150.00, "credit_currency": "USD"}` (contract §6.5)."""
    document = _object(value)
    return CreditBalance(
        amount=_number(document.get("credit_balance")),
        currency=_code(document.get("credit_currency")),
    )


def exchange_rate(value: JsonValue) -> Decimal:
    """Read the bare rate, fiat per one coin; not above zero is no rate (contract §6.7)."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise refused_text(value)
    rate = _number(value)
    if rate <= 0:
        raise UpstreamInvalidResponse("QuantaPay gave a rate that is not above zero.")
    return rate


def checkout_page(value: JsonValue) -> CheckoutPage:
    """Read the one documented field, `payment_url`; whether its host may be shown is not decided here."""
    document = _object(value)
    url = document.get("payment_url")
    if not isinstance(url, str) or not url:
        raise UpstreamInvalidResponse("QuantaPay's answer names no payment page.")
    return CheckoutPage(payment_url=url)


def transaction(value: JsonValue) -> Transaction | None:
    """Read one row; `false`, `""`, `null` and `[]` all say that there is none (contract §6.3)."""
    if value is False or value is None or value in ("", []):
        return None
    return _row(value)


def transactions(value: JsonValue) -> tuple[Transaction, ...]:
    """Read a page of rows, in QuantaPay's order: newest first."""
    if isinstance(value, str) and value:
        raise refused_text(value)
    if not isinstance(value, list):
        raise UpstreamInvalidResponse
    return tuple(_row(row) for row in value)


def _row(value: JsonValue) -> Transaction:
    row = _object(value)
    transaction_id = _text(row.get("id"))
    if transaction_id is None:
        raise UpstreamInvalidResponse("QuantaPay gave a transaction without an id.")
    raw_status = _text(row.get("status"))
    return Transaction(
        id=transaction_id,
        quantapay_reference=_text(row.get("biz_id")),
        title=_text(row.get("title")),
        description=_text(row.get("description")),
        from_address=_text(row.get("from")),
        to_address=_text(row.get("to")),
        hash=_text(row.get("hash")),
        amount=_amount(row.get("amount")),
        cryptocurrency=_lower(row.get("cryptocurrency")),
        fiat_amount=_amount(row.get("amount_fiat")),
        currency=_lower(row.get("currency")),
        order_id=_text(row.get("external_reference")),
        status=_STATUSES.get(raw_status or "", "unknown"),
        raw_status=raw_status,
        created_at=_time(row.get("creation_time")),
    )


def _object(value: JsonValue) -> dict[str, JsonValue]:
    """Take an object; PHP prints an empty one as `[]`, and a text is a refusal (contract §2, §10)."""
    if isinstance(value, dict):
        return value
    if value == []:
        return {}
    if isinstance(value, str) and value:
        raise refused_text(value)
    raise UpstreamInvalidResponse


def _number(value: JsonValue) -> Decimal:
    """Take a number or a numeric text, digits kept, never through a float (contract §9)."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise UpstreamInvalidResponse("QuantaPay gave something else where an amount belongs.")
    token = str(value)
    if not _NUMBER.fullmatch(token):
        raise UpstreamInvalidResponse("QuantaPay gave something else where an amount belongs.")
    return Decimal(token)


def _amount(value: JsonValue) -> Decimal | None:
    """Read a row's amount; one that is none counts as missing, and so as too little.

    A payer can edit what the row was made from, and must not be able to make a whole page of rows unreadable.
    """
    try:
        return _number(value)
    except UpstreamInvalidResponse:
        return None


def _code(value: JsonValue) -> str:
    code = value.lower() if isinstance(value, str) else ""
    if not _CODE.fullmatch(code):
        raise UpstreamInvalidResponse("QuantaPay gave something else where a currency code belongs.")
    return code


def _lower(value: JsonValue) -> str | None:
    text = _text(value)
    return None if text is None else text.lower()


def _text(value: JsonValue) -> str | None:
    """Take a text, or a list as its lines (contract §6.3); empty is `None`."""
    if isinstance(value, list):
        value = "\n".join(line for line in map(_scalar, value) if line)
    return _scalar(value)


def _scalar(value: JsonValue) -> str | None:
    """Take a text, or a number as its text (contract §9); what is empty or neither is `None`.

    A payer can have made it, and one odd text must not make a whole page of rows unreadable.
    """
    if value == "" or isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        return None
    return str(value)[:_LONGEST_TEXT]


def _time(value: JsonValue) -> datetime | None:
    """Read `YYYY-MM-DD HH:MM:SS`, which is UTC (contract §7, §10); anything else is no time."""
    try:
        return datetime.strptime(str(value), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
