"""What each function of `api.php` does once the caller is known (contract §6).

Error codes that begin with `simulated-` are made up: the contract has no code for these cases.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import islice
from urllib.parse import urlencode

from pydantic import SecretStr

from gateway.clock import Clock
from gateway.sandbox.simulator import market
from gateway.sandbox.simulator.envelope import Envelope, bare_failure, error, error_in_response, success
from gateway.sandbox.simulator.php import Form, text
from gateway.sandbox.simulator.state import DATETIME_FORMAT, Ledger, Order, Row

SIGNATURE_WINDOW = 300
"""Seconds either way, the edge included (contract §5, §11)."""
PAGE_SIZE = 100

INVALID_SIGNATURE = "simulated-invalid-signature"
EXPIRED = "simulated-expired"
INVALID_PRICE = "simulated-invalid-price"
INVALID_CURRENCY = "simulated-invalid-currency"

_PRICE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,8})?", re.ASCII)
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,18})?", re.ASCII)
_CURRENCY = re.compile(r"[A-Za-z]{3,10}", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,10}", re.ASCII)
_SEARCHED = ("title", "description", "cryptocurrency", "currency", "from", "to", "hash", "external_reference")
_SEARCHED_AMOUNTS = ("amount", "amount_fiat")


@dataclass(frozen=True, slots=True)
class Account:
    """What the functions work on, and where its pay page is."""

    ledger: Ledger
    webhook_secret: SecretStr
    clock: Clock
    pay_page_url: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function: its required parameters in the order they are checked, and what it does."""

    required: tuple[str, ...]
    run: Callable[[Account, Form], Envelope]


def signature_of(*, secret: SecretStr, price: str, currency: str, order_id: str, timestamp: str) -> str:
    """Sign a checkout session (contract §5): HMAC-SHA256 in lower-case hex over the texts as they are sent."""
    signed = f"{price}|{currency}|{order_id}|{timestamp}".encode("utf-8", "surrogateescape")
    return hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).hexdigest()


def create_checkout_session(account: Account, form: Form) -> Envelope:
    """Open a session and give the address of its pay page."""
    price, currency = text(form, "price"), text(form, "currency")
    refusal = _signature_refusal(account, form) if "signature" in form else None
    if refusal is not None:
        return refusal
    if not _PRICE.fullmatch(price) or not Decimal(price):
        return error(INVALID_PRICE, "The price is not a positive amount")
    if not _CURRENCY.fullmatch(currency):
        return error(INVALID_CURRENCY, "The currency is not a currency code")
    reference = text(form, "order_id") or text(form, "external_reference")
    order = Order(
        price=Decimal(price),
        currency=currency,
        reference=reference,
        title=text(form, "title"),
        description=text(form, "description"),
    )
    session = account.ledger.open_session(order)
    address = {
        "checkout_id": f"cs-{session.id}",
        "price": price,
        "currency": currency,
        "external_reference": reference,
    }
    query = urlencode(address, errors="surrogateescape")
    return success({"payment_url": f"{account.pay_page_url}?{query}", "session_id": session.id})


def get_balances(_account: Account, _form: Form) -> Envelope:
    """List the coins that have an address, in the documented shape."""
    return success(market.balances())


def get_credit_balance(_account: Account, _form: Form) -> Envelope:
    """Give the prepaid credits, a JSON number."""
    return success({"credit_balance": 150.25, "credit_currency": "USD"})


def get_exchange_rates(_account: Account, form: Form) -> Envelope:
    """Give the price of one coin as a bare string."""
    coin, currency = text(form, "cryptocurrency_code"), text(form, "currency_code")
    rate = market.rate(coin, currency)
    return _no_rate(coin, currency) if rate is None else success(format(rate, "f"))


def get_fiat_value(_account: Account, form: Form) -> Envelope:
    """Give the worth of an amount of coins, a JSON number with two decimals."""
    coin, currency, amount = (text(form, name) for name in ("cryptocurrency_code", "currency_code", "amount"))
    if not _AMOUNT.fullmatch(amount):
        return error_in_response("the amount is not a number")
    value = market.fiat_value(Decimal(amount), cryptocurrency=coin, currency=currency)
    return _no_rate(coin, currency) if value is None else success(float(value))


def get_transaction(account: Account, form: Form) -> Envelope:
    """Give one row; `false` when there is none."""
    transaction_id = text(form, "transaction_id")
    if not _INTEGER.fullmatch(transaction_id):
        return error_in_response("transaction_id is not a number")
    return success(account.ledger.row(int(transaction_id)) or False)


def get_transactions(account: Account, form: Form) -> Envelope:
    """List rows, newest first: 100 a page from page 0, or all of them for page −1."""
    page = text(form, "pagination", "0") or "0"
    period = form.get("date_range", {})
    try:
        first, last = _range(period if isinstance(period, dict) else {})
    except ValueError:
        return error_in_response("date_range is not a range of dates")
    if not _INTEGER.fullmatch(page):
        return error_in_response("pagination is not a number")
    rows = (
        row
        for row in _searched(account.ledger.rows(), text(form, "search"))
        if text(form, "status") in ("", row["status"])
        and text(form, "cryptocurrency").lower() in ("", row["cryptocurrency"])
        and first <= str(row["creation_time"]) <= last
    )
    start = int(page) * PAGE_SIZE
    return success(list(rows) if start < 0 else list(islice(rows, start, start + PAGE_SIZE)))


def get_cryptocurrency_codes(_account: Account, _form: Form) -> Envelope:
    """Fail as a function does that is in the list but was never written (contract §6.10)."""
    return bare_failure("The function has no handler")


FUNCTIONS = {
    "create-checkout-session": Function(("price", "currency"), create_checkout_session),
    "get-balances": Function((), get_balances),
    "get-credit-balance": Function((), get_credit_balance),
    "get-cryptocurrency-codes": Function(("cryptocurrency_code",), get_cryptocurrency_codes),
    "get-exchange-rates": Function(("currency_code", "cryptocurrency_code"), get_exchange_rates),
    "get-fiat-value": Function(("amount", "cryptocurrency_code", "currency_code"), get_fiat_value),
    "get-transaction": Function(("transaction_id",), get_transaction),
    "get-transactions": Function((), get_transactions),
}


def _signature_refusal(account: Account, form: Form) -> Envelope | None:
    timestamp = text(form, "timestamp")
    if not _INTEGER.fullmatch(timestamp) or abs(int(account.clock.time()) - int(timestamp)) > SIGNATURE_WINDOW:
        return error(EXPIRED, "Request expired")
    expected = signature_of(
        secret=account.webhook_secret,
        price=text(form, "price"),
        currency=text(form, "currency"),
        order_id=text(form, "order_id"),
        timestamp=timestamp,
    )
    given = text(form, "signature").encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(expected.encode(), given):
        return error(INVALID_SIGNATURE, "Invalid signature")
    return None


def _no_rate(coin: str, currency: str) -> Envelope:
    return error_in_response(f"no rate of {coin or 'nothing'} in {currency or 'nothing'}")


def _searched(rows: Iterator[Row], sought: str) -> Iterator[Row]:
    """Keep the rows that hold a text, case aside; amounts are looked at for a number only."""
    columns = _SEARCHED + (_SEARCHED_AMOUNTS if _AMOUNT.fullmatch(sought) else ())
    needle = sought.lower()
    return (row for row in rows if any(needle in str(row.get(column, "")).lower() for column in columns))


def _range(period: dict[str, str]) -> tuple[str, str]:
    """Read the ends of `date_range` as texts that sort as `creation_time` does; `ValueError` if one is no date."""
    first, last = (period.get(end, "") for end in ("0", "1"))
    return (_datetime(first) if first else ""), (_datetime(last) if last else "~")


def _datetime(given: str) -> str:
    date_format = DATETIME_FORMAT if " " in given else "%Y-%m-%d"
    return datetime.strptime(given, date_format).strftime(DATETIME_FORMAT)  # noqa: DTZ007 - compared as text, all UTC
