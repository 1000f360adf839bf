"""Sessions and payments as JSON texts, the form in which they lie in Redis.

The format is spelled out here and has a number, so that a changed class does not quietly change what is stored. Amounts
and times are texts, never JSON numbers: no binary float comes near them. The text is ASCII, so that any Unicode in it
comes back as it was.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, TypeAlias, get_args

from gateway.payments.session import Session, SessionStatus
from gateway.quantapay.models import Transaction, TransactionStatus

FORMAT = 1
"""To be raised with every change of what is written."""

_Reader: TypeAlias = Callable[[Any], Any]
"""Turns a JSON value into one of ours. Raises `ValueError` if it is not what we write there."""


def encode(session: Session) -> str:
    """Write a session in one line of ASCII."""
    return _write({name: getattr(session, name) for name in _SESSION})


def decode(text: str) -> Session:
    """Read what `encode` wrote in this format. Raises `ValueError`, without the text, for anything else."""
    return Session(**_read(text, _SESSION))


def encode_transaction(payment: Transaction) -> str:
    """Write a payment in one line of ASCII."""
    return _write({name: getattr(payment, name) for name in _TRANSACTION})


def decode_transaction(text: str) -> Transaction:
    """Read what `encode_transaction` wrote in this format. Raises `ValueError`, without the text, for anything else."""
    return Transaction(**_read(text, _TRANSACTION))


def _write(fields: Mapping[str, object]) -> str:
    return json.dumps({"format": FORMAT, **fields}, default=_plain, separators=(",", ":"))


def _read(text: str, readers: Mapping[str, _Reader]) -> dict[str, Any]:
    try:
        document = json.loads(text)
        if isinstance(document, dict) and document.pop("format", None) == FORMAT:
            return _fields(document, readers)
    except (ValueError, RecursionError):
        pass  # raised from nothing: such errors hold the text
    raise ValueError("not of ours in this format")


def _plain(value: object) -> object:
    match value:
        case Decimal():
            return str(value)
        case datetime():
            return value.isoformat()
        case Transaction():
            return {name: getattr(value, name) for name in _TRANSACTION}
        case Mapping():
            return dict(value)
    raise TypeError(f"no way to write a value of type {type(value).__name__}")


def _fields(value: object, readers: Mapping[str, _Reader]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != readers.keys():
        _refuse()
    return {name: read(value[name]) for name, read in readers.items()}


def _optional(read: _Reader) -> _Reader:
    return lambda value: None if value is None else read(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else _refuse()


def _texts(value: object) -> dict[str, str]:
    return {name: _text(text) for name, text in value.items()} if isinstance(value, dict) else _refuse()


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else _refuse()


def _amount(value: object) -> Decimal:
    try:
        amount = Decimal(_text(value))
    except InvalidOperation:
        _refuse()
    return amount if amount.is_finite() else _refuse()


def _price(value: object) -> str:
    _amount(value)
    return _text(value)


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(_text(value))
    return time if time.tzinfo else _refuse()


def _status(value: object) -> SessionStatus:
    return SessionStatus(_text(value))


def _transaction_status(value: object) -> str:
    return _text(value) if value in get_args(TransactionStatus) else _refuse()


def _transaction(value: object) -> Transaction:
    return Transaction(**_fields(value, _TRANSACTION))


def _refuse() -> NoReturn:
    raise ValueError


_SESSION: dict[str, _Reader] = {
    "id": _text,
    "client_id": _text,
    "price": _price,
    "currency": _text,
    "order_id": _text,
    "metadata": _texts,
    "payment_url": _text,
    "created_at": _time,
    "status": _status,
    "version": _count,
    "transaction": _optional(_transaction),
}
_TRANSACTION: dict[str, _Reader] = {
    "id": _text,
    "quantapay_reference": _optional(_text),
    "title": _optional(_text),
    "description": _optional(_text),
    "from_address": _optional(_text),
    "to_address": _optional(_text),
    "hash": _optional(_text),
    "amount": _optional(_amount),
    "cryptocurrency": _optional(_text),
    "fiat_amount": _optional(_amount),
    "currency": _optional(_text),
    "order_id": _optional(_text),
    "status": _transaction_status,
    "raw_status": _optional(_text),
    "created_at": _optional(_time),
}
"""Every field, by name. What is written is exactly these."""
