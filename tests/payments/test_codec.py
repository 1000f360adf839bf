"""Sessions and payments as texts: what was written comes back, and nothing else is taken for one."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.payments.codec import decode, decode_transaction, encode, encode_transaction
from gateway.payments.session import Session, SessionStatus
from gateway.quantapay.models import Transaction

PAYMENT = Transaction(
    id="41",
    quantapay_reference="QP-1",
    title=None,
    description=None,
    from_address=None,
    to_address="bc1q",
    hash="0xcc",
    amount=Decimal("1.0E-8"),
    cryptocurrency="btc",
    fiat_amount=Decimal("49.9900"),
    currency="usd",
    order_id="ORD-1",
    status="completed",
    raw_status="C",
    created_at=datetime(2026, 4, 10, 9, 1, tzinfo=UTC),
)
SESSION = Session(
    id="cs_1",
    client_id="shop",
    price="49.90",
    currency="usd",
    order_id="ORD-1",
    metadata={"cart": "é"},
    payment_url="https://cloud.quantapay.app/pay/1",
    created_at=datetime(2026, 4, 10, 9, tzinfo=UTC),
    status=SessionStatus.PAID,
    version=2,
    transaction=PAYMENT,
)
TEXT = (
    '{"format":1,"id":"cs_1","client_id":"shop","price":"49.90","currency":"usd","order_id":"ORD-1",'
    '"metadata":{"cart":"\\u00e9"},"payment_url":"https://cloud.quantapay.app/pay/1",'
    '"created_at":"2026-04-10T09:00:00+00:00","status":"paid","version":2,'
    '"transaction":{"id":"41","quantapay_reference":"QP-1","title":null,"description":null,"from_address":null,'
    '"to_address":"bc1q","hash":"0xcc","amount":"1.0E-8","cryptocurrency":"btc","fiat_amount":"49.9900",'
    '"currency":"usd","order_id":"ORD-1","status":"completed","raw_status":"C",'
    '"created_at":"2026-04-10T09:01:00+00:00"}}'
)


def test_the_format_is_this_one_and_has_another_number_if_it_changes() -> None:
    assert encode(SESSION) == TEXT
    assert decode(TEXT) == SESSION


texts = st.text(st.characters())  # all of Unicode, lone surrogates too
amounts = st.decimals(allow_nan=False, allow_infinity=False)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(timezones=st.one_of(st.just(UTC), zones))


def optional(values):
    return st.one_of(st.none(), values)


payments = st.builds(
    Transaction,
    id=texts,
    **{name: optional(texts) for name in ("quantapay_reference", "title", "description", "order_id", "raw_status")},
    **{name: optional(texts) for name in ("from_address", "to_address", "hash", "cryptocurrency", "currency")},
    **{name: optional(amounts) for name in ("amount", "fiat_amount")},
    status=st.sampled_from(["pending", "completed", "underpaid", "refunded", "unknown"]),
    created_at=optional(times),
)
sessions = st.builds(
    Session,
    **dict.fromkeys(("id", "client_id", "currency", "order_id", "payment_url"), texts),
    price=amounts.map(str),
    metadata=st.dictionaries(texts, texts, max_size=3),
    created_at=times,
    status=st.sampled_from(SessionStatus),
    version=st.integers(1, 2**70),
    transaction=optional(payments),
)


@given(session=sessions)
def test_any_session_comes_back_digit_by_digit(session: Session) -> None:
    text = encode(session)
    assert text.isascii()
    assert "\n" not in text
    assert decode(text) == session
    assert encode(decode(text)) == text  # which tells 1.0 from 1, where `==` does not


def test_a_payment_alone_is_written_as_in_a_session() -> None:
    text = '{"format":1,' + TEXT.partition('"transaction":{')[2][:-1]
    assert encode_transaction(PAYMENT) == text
    assert decode_transaction(text) == PAYMENT


@given(payment=payments)
def test_any_payment_comes_back_digit_by_digit(payment: Transaction) -> None:
    text = encode_transaction(payment)
    assert text.isascii()
    assert decode_transaction(text) == payment
    assert encode_transaction(decode_transaction(text)) == text


@pytest.mark.parametrize("text", ["", "null", "{}", TEXT, '{"format":1}', '{"format":1,"id":"secret"}'])
def test_nothing_else_is_taken_for_a_payment_or_repeated(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        decode_transaction(text)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None


def test_any_mapping_can_be_metadata() -> None:
    session = Session(
        **{name: getattr(SESSION, name) for name in Session.__slots__} | {"metadata": MappingProxyType({"a": "b"})}
    )
    assert decode(encode(session)).metadata == {"a": "b"}


def test_what_the_format_does_not_know_is_not_written() -> None:
    session = Session(**{name: getattr(SESSION, name) for name in Session.__slots__} | {"metadata": object()})
    with pytest.raises(TypeError, match="of type object"):
        encode(session)


def changed(*path: str, to: object) -> str:
    """Return the text with another value in one place."""
    document = json.loads(TEXT)
    *parents, name = path
    place = document
    for parent in parents:
        place = place[parent]
    place[name] = to
    return json.dumps(document)


def without(*path: str) -> str:
    document = json.loads(TEXT)
    *parents, name = path
    place = document
    for parent in parents:
        place = place[parent]
    del place[name]
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        TEXT[:-1],
        TEXT + "{}",
        without("format"),
        without("order_id"),
        without("transaction"),
        without("transaction", "hash"),
        changed("format", to=2),
        changed("format", to="1"),
        changed("more", to="secret"),
        changed("transaction", "more", to="secret"),
        changed("id", to=None),
        changed("id", to=7),
        changed("price", to=49.9),
        changed("price", to="secret"),
        changed("price", to="NaN"),
        changed("metadata", to=[]),
        changed("metadata", to={"a": 1}),
        changed("created_at", to="2026-04-10T09:00:00"),
        changed("created_at", to="secret"),
        changed("created_at", to=1_775_811_600),
        changed("status", to="secret"),
        changed("version", to=0),
        changed("version", to=True),
        changed("version", to=2.0),
        changed("transaction", to="secret"),
        changed("transaction", "amount", to=1e-8),
        changed("transaction", "fiat_amount", to=49),
        changed("transaction", "fiat_amount", to="Infinity"),
        changed("transaction", "fiat_amount", to="secret"),
        changed("transaction", "status", to="secret"),
        changed("transaction", "status", to=["completed"]),
        changed("transaction", "created_at", to="2026-04-10T09:00:00"),
    ],
    ids=lambda text: text[-60:],
)
def test_nothing_else_is_taken_for_a_session_or_repeated(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        decode(text)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None
